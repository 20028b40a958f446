//! Boards: each panel is a file with one query and a comment that says what it is; here they are read, asked, drawn and turned into
//! Grafana's JSON. Which questions are worth asking is said in `pipelines/analytics/dashboards`, not here.

mod ask;
mod chart;
mod grafana;
mod numbers;
mod objectives;
mod page;
mod terminal;

use std::path::{Path, PathBuf};

pub use ask::{Answer, Asker, Span};
pub use grafana::dashboards;
pub use objectives::{Objectives, rules};
pub use page::{index, page};
pub use terminal::draw;

/// The boards in the order in which they are shown: folder and title.
pub const BOARDS: [(&str, &str); 7] = [
    ("overview", "Platform overview"),
    ("runs", "Runs"),
    ("governance", "Governance"),
    ("tools", "Tools"),
    ("cost", "Models and cost"),
    ("memory", "Memory"),
    ("pipelines", "Pipelines"),
];

/// A board and its panels in the order of their file names.
#[derive(Clone, Debug)]
pub struct Board {
    /// Its folder.
    pub name: &'static str,
    /// Its title.
    pub title: &'static str,
    /// Its panels.
    pub panels: Vec<Panel>,
}

/// How a panel is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// Over time: columns time, series (may be left out), value.
    Lines,
    /// Side by side: columns label, value.
    Bars,
    /// One number.
    Number,
    /// As it comes.
    Table,
}

/// What a panel is asked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// ClickHouse's.
    Sql,
    /// Prometheus'.
    PromQl,
}

/// One question and how its answer is shown.
#[derive(Clone, Debug)]
pub struct Panel {
    /// File name without number and suffix.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// Unit of the values: `s`, `ms`, `usd`, `%`, `bytes`, or words; empty for a plain count.
    pub unit: String,
    /// Its drawing.
    pub draw: Draw,
    /// A sentence for who wonders.
    pub about: String,
    /// Language of the query.
    pub language: Language,
    /// The query, without the comment. `{from:DateTime}` and `{to:DateTime}` are the bounds asked for, `$interval` is Prometheus' range.
    pub query: String,
}

/// Reads every board below a folder.
///
/// # Errors
/// A file that cannot be read, a header that lacks something, a folder or file that is no board or panel; all of it, one a line.
pub fn load(dir: &Path) -> Result<Vec<Board>, String> {
    let mut wrong = Vec::new();
    for folder in entries(dir)? {
        let name = file_name(&folder);
        if folder.is_dir() && !BOARDS.iter().any(|(board, _)| *board == name) {
            wrong.push(format!(
                "{}: no such board in BOARDS of pipelines/src/dash/mod.rs",
                folder.display()
            ));
        }
    }
    let mut boards = Vec::new();
    for (name, title) in BOARDS {
        let mut panels = Vec::new();
        for file in entries(&dir.join(name))? {
            match panel(&file) {
                Ok(panel) => panels.push(panel),
                Err(e) => wrong.push(format!("{}: {e}", file.display())),
            }
        }
        boards.push(Board { name, title, panels });
    }
    if wrong.is_empty() {
        Ok(boards)
    } else {
        Err(wrong.join("\n"))
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let read = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut paths: Vec<_> = read.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn panel(file: &Path) -> Result<Panel, String> {
    let name = file_name(file);
    let (stem, language, comment) = if let Some(stem) = name.strip_suffix(".sql") {
        (stem, Language::Sql, "--")
    } else if let Some(stem) = name.strip_suffix(".promql") {
        (stem, Language::PromQl, "#")
    } else {
        return Err("a panel is a .sql or a .promql file".to_owned());
    };
    let text = std::fs::read_to_string(file).map_err(|e| e.to_string())?;
    let stem = stem.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_');
    parse(stem, language, comment, &text)
}

fn parse(name: &str, language: Language, comment: &str, text: &str) -> Result<Panel, String> {
    let (head, query): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with(comment));
    let field = |key: &str| {
        let mut found = head
            .iter()
            .filter_map(|line| line[comment.len()..].trim().strip_prefix(key)?.strip_prefix(':'));
        found.next().map(|value| value.trim().to_owned())
    };
    let needed = |key: &str| field(key).ok_or_else(|| format!("its header lacks `{comment} {key}: ...`"));
    let draw = match needed("draw")?.as_str() {
        "lines" => Draw::Lines,
        "bars" => Draw::Bars,
        "number" => Draw::Number,
        "table" => Draw::Table,
        other => return Err(format!("`draw: {other}` is not lines, bars, number or table")),
    };
    let query = query.join("\n").trim().trim_end_matches(';').to_owned();
    if query.is_empty() {
        return Err("there is no query under its header".to_owned());
    }
    Ok(Panel {
        name: name.to_owned(),
        title: needed("title")?,
        unit: needed("unit")?,
        about: field("about").unwrap_or_default(),
        draw,
        language,
        query,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn shipped() -> Vec<Board> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        load(&root.join("analytics/dashboards")).unwrap()
    }

    #[test]
    fn every_board_has_panels_and_every_panel_of_sql_keeps_to_the_range() {
        for board in shipped() {
            assert!(
                board.panels.len() >= 4,
                "{} has {} panels",
                board.name,
                board.panels.len()
            );
            for panel in &board.panels {
                let at = format!("{}/{}", board.name, panel.name);
                assert!(panel.title.chars().count() <= 60, "{at}: its title is too long");
                let ranged = panel.query.contains("{from:DateTime}") && panel.query.contains("{to:DateTime}");
                assert!(
                    panel.language == Language::PromQl || ranged,
                    "{at}: asks for all of time"
                );
            }
        }
    }

    #[test]
    fn a_header_says_what_it_lacks() {
        let good = "-- title: A\n-- unit: s\n-- draw: bars\nSELECT 1;\n";
        let panel = parse("a", Language::Sql, "--", good).unwrap();
        assert_eq!(
            (panel.title.as_str(), panel.query.as_str(), panel.draw),
            ("A", "SELECT 1", Draw::Bars)
        );
        for (text, word) in [
            ("-- title: A\n-- draw: bars\nSELECT 1", "unit"),
            ("-- title: A\n-- unit:\n-- draw: pie\nSELECT 1", "pie"),
            ("-- title: A\n-- unit:\n-- draw: bars\n", "no query"),
        ] {
            assert!(parse("a", Language::Sql, "--", text).unwrap_err().contains(word));
        }
    }

    #[test]
    fn what_grafana_and_prometheus_are_given_is_what_the_files_say() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let objectives = Objectives::load(&root.join("deploy/prometheus/objectives.yaml")).unwrap();
        let mut wanted: Vec<_> = dashboards(&shipped())
            .into_iter()
            .map(|(name, json)| (format!("deploy/grafana/{name}.json"), json))
            .collect();
        wanted.push(("deploy/prometheus/rules/objectives.yml".to_owned(), rules(&objectives)));
        for (file, text) in wanted {
            let there = std::fs::read_to_string(root.join(&file)).unwrap_or_default();
            assert!(
                there == text,
                "{file} is not what its source says: run `soma dash --generate`"
            );
        }
    }
}
