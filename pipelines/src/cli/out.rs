//! Everything the command line writes: lines, tables and JSON to stdout, notes and errors to stderr. Colour is decided here
//! once, by `--no-color`, NO_COLOR and whether a terminal listens; nothing else in the crate prints.

use std::io::{IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value as Json;

use super::failure::Failure;

/// Good.
pub(super) const GREEN: Style = AnsiColor::Green.on_default();
/// Bad.
pub(super) const RED: Style = AnsiColor::Red.on_default();
/// Wants a human's attention.
pub(super) const YELLOW: Style = AnsiColor::Yellow.on_default();
/// At work.
pub(super) const CYAN: Style = AnsiColor::Cyan.on_default();
/// Less important.
pub(super) const DIM: Style = Style::new().dimmed();
/// Headings.
pub(super) const BOLD: Style = Style::new().bold();

/// Text in a style. The stream drops the escapes where they are not wanted.
pub(super) fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// One line to stdout.
///
/// # Errors
/// The reader has gone.
pub(super) fn line(text: impl AsRef<str>) -> Result<(), Failure> {
    writeln!(anstream::stdout(), "{}", text.as_ref()).map_err(|e| match e.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::reader_gone(),
        _ => Failure::failed("OUTPUT_UNWRITABLE", format!("stdout: {e}"), "is the disk full?"),
    })
}

/// One line to stderr: progress and remarks, so that stdout stays clean for pipes. A stderr that is gone is no reason to stop.
pub(super) fn note(text: impl AsRef<str>) {
    writeln!(anstream::stderr(), "{}", text.as_ref()).ok();
}

/// The last words of a command that failed.
pub(super) fn error(failure: &Failure) {
    if failure.code.is_empty() {
        return;
    }
    let head = paint(RED.bold(), &format!("error[{}]:", failure.code));
    note(format!("{head} {}", failure.text));
    if !failure.help.is_empty() {
        note(format!("{} {}", paint(BOLD, "help:"), failure.help));
    }
}

/// A JSON document to stdout, indented.
///
/// # Errors
/// The reader has gone.
pub(super) fn json(value: &Json) -> Result<(), Failure> {
    line(format!("{value:#}"))
}

/// A table to stdout, its status words coloured; nothing but the heading when there are no rows.
///
/// # Errors
/// The reader has gone.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
    let text = plain_table(heading, rows);
    for (i, row) in text.lines().enumerate() {
        let row = row.trim_end();
        line(if i == 0 { paint(BOLD, row) } else { colour_words(row) })?;
    }
    Ok(())
}

/// The table without colour: columns are measured before escapes are put in, or they would not line up.
pub(super) fn plain_table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(heading.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| cell.replace(['\n', '\t'], " ")));
    }
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    table.to_string()
}

fn colour_words(row: &str) -> String {
    let mut out = String::with_capacity(row.len());
    for word in row.split_inclusive(' ') {
        let bare = word.trim_end();
        match colour_of(bare) {
            Some(style) => {
                out.push_str(&paint(style, bare));
                out.push_str(&word[bare.len()..]);
            }
            None => out.push_str(word),
        }
    }
    out
}

/// Colour of a status word; `None` for any other word.
pub(super) fn colour_of(word: &str) -> Option<Style> {
    Some(match word {
        "SUCCEEDED" | "COMPENSATED" | "ALLOW" | "running" | "ok" => GREEN,
        "FAILED"
        | "DENIED"
        | "KILLED"
        | "KILL"
        | "REFUSED"
        | "UNKNOWN"
        | "CANCELLED"
        | "COMPENSATION_FAILED"
        | "halted"
        | "missing"
        | "mismatched"
        | "refused" => RED,
        "WAITING_APPROVAL" | "PAUSED" | "PAUSE" | "RETRYING" | "CANCEL" | "waiting" | "restoring" | "starting" => {
            YELLOW
        }
        "RUNNING" | "JUDGING" | "COMPENSATING" => CYAN,
        "PENDING" | "SKIPPED" | "stopped" => DIM,
        _ => return None,
    })
}

/// At most so many characters, on one line; an ellipsis says that there was more.
pub(super) fn short(text: &str, chars_max: usize) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= chars_max {
        return text;
    }
    text.chars()
        .take(chars_max.saturating_sub(1))
        .chain(std::iter::once('…'))
        .collect()
}

/// A progress bar on stderr; hidden when stderr is not a terminal.
pub(super) fn progress(len: usize, what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(len as u64), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {per_sec} {eta}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_owned());
    bar
}

/// A block of text on stdout that is drawn over and over again; for terminals only.
pub(super) fn canvas() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
    if let Ok(style) = ProgressStyle::with_template("{msg}") {
        bar.set_style(style);
    }
    bar
}

/// Escapes removed unless stdout takes colour; for text that does not pass through [`line`].
pub(super) fn for_terminal(text: &str) -> String {
    match anstream::AutoStream::choice(&std::io::stdout()) {
        anstream::ColorChoice::Never => anstream::adapter::strip_str(text).to_string(),
        _ => text.to_owned(),
    }
}

/// Whether a person reads stdout.
pub(super) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Asks on the terminal; yes is `y` or `yes`.
///
/// # Errors
/// Nobody can be asked: stdin is not a terminal.
pub(super) fn confirm(question: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        let help = "add -y once you have read what is asked, or run it in a terminal";
        return Err(Failure::input(
            "CONFIRMATION_MISSING",
            "stdin is not a terminal, so nobody can confirm",
            help,
        ));
    }
    write!(anstream::stderr(), "{} [y/N] ", paint(BOLD, question)).ok();
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.map_err(|e| {
        Failure::failed(
            "INPUT_UNREADABLE",
            format!("stdin: {e}"),
            "add -y to go on without asking",
        )
    })?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_colour_does_not_move_them() {
        let rows = vec![
            vec!["run_1".into(), "SUCCEEDED".into(), "a\nb".into()],
            vec!["r".into(), "FAILED".into(), "c".into()],
        ];
        let text = plain_table(&["RUN", "STATUS", "GOAL"], &rows);
        let at: Vec<_> = text
            .lines()
            .zip(["STATUS", "SUCCEEDED", "FAILED"])
            .map(|(l, w)| l.find(w).unwrap())
            .collect();
        assert!(at.windows(2).all(|w| w[0] == w[1]), "{text}");
        let line = text.lines().nth(1).unwrap();
        let coloured = colour_words(line);
        assert!(coloured.contains('\u{1b}'));
        assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), line);
    }

    #[test]
    fn short_keeps_one_line() {
        assert_eq!(short("a\n  b", 9), "a b");
        assert_eq!(short("äöüäöü", 4), "äöü…");
    }
}
