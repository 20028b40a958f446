//! A panel as lines of text: sparklines, bars, tables. Pure; colour is the caller's.

use super::numbers::{Line, bars, cell, lines, number, shown};
use super::{Answer, Draw, Panel, Span};

/// Series, bars or rows shown; the rest is counted.
const ROWS_MAX: usize = 12;
const SPARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A panel's answer as text, `width` columns wide; the title is the caller's.
pub fn draw(panel: &Panel, answer: &Answer, span: Span, width: usize) -> Vec<String> {
    if answer.rows.is_empty() {
        return vec!["nothing in this time".to_owned()];
    }
    match panel.draw {
        Draw::Lines => sparklines(&lines(answer), &panel.unit, span, width),
        Draw::Bars => blocks(&bars(answer), &panel.unit, width),
        Draw::Number => numbers(answer, &panel.unit),
        Draw::Table => table(answer, &panel.unit),
    }
}

/// So many characters exactly.
fn padded(text: &str, width: usize) -> String {
    let short: String = if text.chars().count() > width {
        text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
    } else {
        text.to_owned()
    };
    format!("{short:<width$}")
}

fn more(rest: usize, what: &str) -> Option<String> {
    (rest > 0).then(|| format!("and {rest} more {what}"))
}

fn sparklines(all: &[Line], unit: &str, span: Span, width: usize) -> Vec<String> {
    let longest = all
        .iter()
        .take(ROWS_MAX)
        .map(|l| l.name.chars().count())
        .max()
        .unwrap_or_default();
    let named = longest.min(28);
    let sparks = width.saturating_sub(named + 30).clamp(10, 72);
    let line = |line: &Line| {
        let parts = line.parts(span, sparks);
        let max = line.max();
        let spark: String = parts
            .iter()
            .map(|part| part.map_or(' ', |value| block(value, max)))
            .collect();
        let told = format!("last {} · max {}", shown(line.last(), unit), shown(max, unit));
        format!("{} {spark} {told}", padded(&line.name, named))
    };
    let mut text: Vec<_> = all.iter().take(ROWS_MAX).map(line).collect();
    text.extend(more(all.len().saturating_sub(ROWS_MAX), "series"));
    text
}

fn block(value: f64, max: f64) -> char {
    if max <= 0.0 {
        return SPARKS[0];
    }
    let nth = (value / max * (SPARKS.len() - 1) as f64).round().max(0.0) as usize;
    SPARKS[nth.min(SPARKS.len() - 1)]
}

fn blocks(all: &[(String, f64)], unit: &str, width: usize) -> Vec<String> {
    let longest = all
        .iter()
        .take(ROWS_MAX)
        .map(|(label, _)| label.chars().count())
        .max()
        .unwrap_or_default();
    let named = longest.min(36);
    let room = width.saturating_sub(named + 14).clamp(8, 60);
    let max = all.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    let bar = |(label, value): &(String, f64)| {
        let share = if max > 0.0 { value / max } else { 0.0 };
        let long = "█".repeat((share * room as f64).round().max(0.0) as usize);
        format!("{} {long} {}", padded(label, named), shown(*value, unit))
    };
    let mut text: Vec<_> = all.iter().take(ROWS_MAX).map(bar).collect();
    text.extend(more(all.len().saturating_sub(ROWS_MAX), "bars"));
    text
}

fn numbers(answer: &Answer, unit: &str) -> Vec<String> {
    let value = answer.rows.first().and_then(|row| row.last());
    vec![
        value
            .and_then(number)
            .map_or_else(|| "none".to_owned(), |n| shown(n, unit)),
    ]
}

fn table(answer: &Answer, unit: &str) -> Vec<String> {
    let mut table = comfy_table::Table::new();
    table
        .load_preset(comfy_table::presets::NOTHING)
        .set_header(answer.columns.iter().map(|c| c.to_uppercase()));
    for row in answer.rows.iter().take(ROWS_MAX) {
        table.add_row(
            row.iter()
                .enumerate()
                .map(|(nth, value)| column(answer, nth, value, unit)),
        );
    }
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    let mut text: Vec<_> = table.to_string().lines().map(|l| l.trim_end().to_owned()).collect();
    text.extend(more(answer.rows.len().saturating_sub(ROWS_MAX), "rows"));
    text
}

/// A table's cell on one line. A column whose name ends in a unit, `p95_ms` or `cost_usd`, is shown in it.
pub(super) fn column(answer: &Answer, nth: usize, value: &serde_json::Value, unit: &str) -> String {
    let name = answer.columns.get(nth).map(String::as_str).unwrap_or_default();
    let own = ["ms", "s", "usd", "bytes"]
        .into_iter()
        .find(|u| name.ends_with(&format!("_{u}")));
    let own = own.or_else(|| name.ends_with("_rate").then_some("%"));
    let last = nth + 1 == answer.columns.len();
    let unit = own.unwrap_or(if last { unit } else { "" });
    let text = match value {
        serde_json::Value::Number(n) => n.as_f64().map_or_else(String::new, |n| shown(n, unit)),
        other => cell(other),
    };
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() > 48 {
        line.chars().take(47).chain(['…']).collect()
    } else {
        line
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::dash::Language;
    use serde_json::json;

    fn panel(draw: Draw, unit: &str) -> Panel {
        Panel {
            name: "p".into(),
            title: "P".into(),
            unit: unit.into(),
            draw,
            about: String::new(),
            language: Language::Sql,
            query: String::new(),
        }
    }

    #[test]
    fn each_drawing_shows_its_values() {
        let span = Span { from_s: 0, to_s: 120 };
        let answer = |columns: &[&str], rows: Vec<Vec<serde_json::Value>>| Answer {
            columns: columns.iter().map(|c| (*c).to_owned()).collect(),
            rows,
        };
        let over = answer(
            &["t", "s", "v"],
            vec![
                vec![json!(0), json!("acme"), json!(8)],
                vec![json!(60), json!("acme"), json!(1)],
            ],
        );
        let text = draw(&panel(Draw::Lines, ""), &over, span, 40);
        assert!(
            text[0].starts_with("acme █") && text[0].contains('▂') && text[0].ends_with("last 1 · max 8"),
            "{text:?}"
        );
        let sides = answer(
            &["a", "v"],
            (0..20).map(|n| vec![json!(format!("b{n}")), json!(n)]).collect(),
        );
        let text = draw(&panel(Draw::Bars, "s"), &sides, span, 60);
        assert_eq!((text.len(), text[12].as_str()), (13, "and 8 more bars"));
        let one = answer(&["v"], vec![vec![json!("0.25")]]);
        assert_eq!(draw(&panel(Draw::Number, "%"), &one, span, 60), ["25 %"]);
        let rows = answer(&["tool", "p95_ms"], vec![vec![json!("http"), json!(1500)]]);
        let text = draw(&panel(Draw::Table, ""), &rows, span, 60);
        assert!(text[0].starts_with("TOOL") && text[1].ends_with("1.50 s"), "{text:?}");
        assert_eq!(
            draw(&panel(Draw::Table, ""), &answer(&["a"], vec![]), span, 60),
            ["nothing in this time"]
        );
    }
}
