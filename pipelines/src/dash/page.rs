//! A board as one static HTML page: no scripts, nothing fetched, so that it can be kept, sent and looked at anywhere. Pure.

use super::chart::{escaped, over_time, side_by_side};
use super::numbers::{bars, lines, number, shown};
use super::terminal::column;
use super::{Answer, BOARDS, Board, Draw, Panel, Span};

/// Rows of a table shown.
const ROWS_MAX: usize = 15;

const STYLE: &str = "body{margin:0;background:#f4f5f7;color:#1f2937;font:14px/1.45 'DejaVu Sans',system-ui,sans-serif}\
header{background:#111827;color:#fff;padding:14px 24px}header h1{margin:0;font-size:20px}header p{margin:2px 0 0;color:#cbd5e1}\
nav{background:#1f2937;padding:6px 24px}nav a{color:#cbd5e1;text-decoration:none;margin-right:18px}nav a.here{color:#fff;font-weight:bold}\
main{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:14px;padding:16px 24px}\
section{grid-column:span 2;background:#fff;border:1px solid #e5e7eb;border-radius:6px;padding:12px 14px;overflow:hidden}\
section h2{font-size:15px;margin:0}section p{margin:0 0 8px;color:#6b7280;font-size:12px}section.number{grid-column:span 1}section.number b{font-size:34px;font-weight:600}\
svg{width:100%;height:auto}.grid{stroke:#e5e7eb}.scale{font-size:10px;fill:#6b7280}.word{font-size:12px;fill:#374151}\
.end{text-anchor:end}.middle{text-anchor:middle}table{border-collapse:collapse;width:100%;font-size:12px}\
th{text-align:left;color:#6b7280;border-bottom:1px solid #e5e7eb;padding:3px 6px}td{padding:3px 6px;border-bottom:1px solid #f3f4f6}\
.none{color:#9ca3af}.fault{color:#b91c1c}";

fn frame(title: &str, here: &str, under: &str, body: &str) -> String {
    let links: String = BOARDS
        .iter()
        .map(|(name, title)| {
            let class = if *name == here { " class=\"here\"" } else { "" };
            format!("<a href=\"{name}.html\"{class}>{title}</a>")
        })
        .collect();
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} · SomaAgentHub</title><style>{STYLE}</style></head>\
         <body><header><h1>{title}</h1><p>{under}</p></header><nav>{links}</nav><main>{body}</main></body></html>\n"
    )
}

/// A board's page; an answer that is an error is shown as one.
pub fn page(board: &Board, answers: &[Result<Answer, String>], span: Span) -> String {
    let body: String = board
        .panels
        .iter()
        .zip(answers)
        .map(|(panel, answer)| section(panel, answer, span))
        .collect();
    let time = |s: i64| {
        chrono::DateTime::from_timestamp(s, 0).map_or_else(String::new, |t| t.format("%Y-%m-%d %H:%M").to_string())
    };
    let under = format!("{} to {} UTC", time(span.from_s), time(span.to_s));
    frame(board.title, board.name, &under, &body)
}

/// The page that leads to the boards.
pub fn index(boards: &[Board]) -> String {
    let one = |board: &Board| {
        let titles: String = board
            .panels
            .iter()
            .map(|p| format!("<li>{}</li>", escaped(&p.title)))
            .collect();
        format!(
            "<section><h2><a href=\"{}.html\">{}</a></h2><ul>{titles}</ul></section>",
            board.name, board.title
        )
    };
    frame(
        "Boards",
        "",
        "SomaAgentHub",
        &boards.iter().map(one).collect::<String>(),
    )
}

fn section(panel: &Panel, answer: &Result<Answer, String>, span: Span) -> String {
    let drawn = match answer {
        Err(e) => format!("<div class=\"fault\">{}</div>", escaped(e)),
        Ok(answer) if answer.rows.is_empty() => "<div class=\"none\">nothing in this time</div>".to_owned(),
        Ok(answer) => match panel.draw {
            Draw::Lines => over_time(&lines(answer), &panel.unit, span),
            Draw::Bars => side_by_side(&bars(answer), &panel.unit),
            Draw::Number => big(answer, &panel.unit),
            Draw::Table => table(answer, &panel.unit),
        },
    };
    let class = if panel.draw == Draw::Number {
        " class=\"number\""
    } else {
        ""
    };
    format!(
        "<section{class}><h2>{}</h2><p>{}</p>{drawn}</section>",
        escaped(&panel.title),
        escaped(&panel.about)
    )
}

fn big(answer: &Answer, unit: &str) -> String {
    let value = answer.rows.first().and_then(|row| row.last()).and_then(number);
    format!("<b>{}</b>", value.map_or_else(|| "none".to_owned(), |n| shown(n, unit)))
}

fn table(answer: &Answer, unit: &str) -> String {
    let head: String = answer
        .columns
        .iter()
        .map(|c| format!("<th>{}</th>", escaped(&c.replace('_', " "))))
        .collect();
    let row = |row: &Vec<serde_json::Value>| {
        let cells: String = row
            .iter()
            .enumerate()
            .map(|(nth, value)| format!("<td>{}</td>", escaped(&column(answer, nth, value, unit))))
            .collect();
        format!("<tr>{cells}</tr>")
    };
    let rows: String = answer.rows.iter().take(ROWS_MAX).map(row).collect();
    let rest = answer.rows.len().saturating_sub(ROWS_MAX);
    let more = if rest > 0 {
        format!("<p>and {rest} more rows</p>")
    } else {
        String::new()
    };
    format!("<table><tr>{head}</tr>{rows}</table>{more}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::dash::Language;
    use serde_json::json;

    #[test]
    fn a_page_shows_every_panel_and_what_went_wrong() {
        let panel = |title: &str, draw| Panel {
            name: title.to_lowercase(),
            title: title.into(),
            unit: String::new(),
            draw,
            about: "why".into(),
            language: Language::Sql,
            query: "SELECT 1".into(),
        };
        let board = Board {
            name: "runs",
            title: "Runs",
            panels: vec![
                panel("A<b>", Draw::Table),
                panel("B", Draw::Number),
                panel("C", Draw::Bars),
            ],
        };
        let rows = vec![vec![json!("<script>"), json!(7)]];
        let answer = Answer {
            columns: vec!["x".into(), "n".into()],
            rows,
        };
        let html = page(
            &board,
            &[Ok(answer.clone()), Ok(answer), Err("Code: 47".into())],
            Span { from_s: 0, to_s: 60 },
        );
        assert!(html.contains("A&lt;b&gt;") && html.contains("&lt;script&gt;") && !html.contains("<script>"));
        assert!(html.contains("<b>7</b>") && html.contains("Code: 47") && html.contains("href=\"overview.html\""));
        assert!(index(&[board]).contains("href=\"runs.html\""));
    }
}
