//! Numbers as people read them, and the series of a panel that is drawn over time. Pure.

use serde_json::Value;

use super::{Answer, Span};

/// A number, whatever ClickHouse wrote it as.
pub(super) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => text.parse().ok(),
        Value::Bool(b) => Some(f64::from(u8::from(*b))),
        _ => None,
    }
    .filter(|n: &f64| n.is_finite())
}

/// A cell of a table.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(all) => all.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => match number(other) {
            Some(n) => shown(n, ""),
            None => other.to_string(),
        },
    }
}

/// A value in its unit: three figures are enough to see.
pub(super) fn shown(value: f64, unit: &str) -> String {
    match unit {
        "%" => format!("{} %", short(value * 100.0)),
        "usd" => format!(
            "${}",
            if value.abs() < 10.0 {
                format!("{value:.4}")
            } else {
                short(value)
            }
        ),
        "bytes" => bytes(value),
        "s" if value.abs() < 1.0 && value != 0.0 => format!("{} ms", short(value * 1000.0)),
        "s" if value.abs() >= 120.0 => format!("{} min", short(value / 60.0)),
        "ms" if value.abs() >= 1000.0 => format!("{} s", short(value / 1000.0)),
        "s" | "ms" => format!("{} {unit}", short(value)),
        _ => short(value),
    }
}

fn bytes(value: f64) -> String {
    let (mut value, mut unit) = (value, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value.abs() < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    format!("{} {unit}", short(value))
}

fn short(value: f64) -> String {
    let size = value.abs();
    if value.fract() == 0.0 && size < 100_000.0 {
        return format!("{value:.0}");
    }
    match size {
        n if n >= 1e9 => format!("{:.2}G", value / 1e9),
        n if n >= 1e6 => format!("{:.2}M", value / 1e6),
        n if n >= 1e5 => format!("{:.0}k", value / 1e3),
        n if n >= 100.0 => format!("{value:.0}"),
        n if n >= 10.0 => format!("{value:.1}"),
        n if n >= 0.01 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// A line: its name and its points in order of time.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    pub(super) name: String,
    /// Unix seconds and value.
    pub(super) points: Vec<(i64, f64)>,
}

impl Line {
    pub(super) fn last(&self) -> f64 {
        self.points.last().map(|p| p.1).unwrap_or_default()
    }

    pub(super) fn max(&self) -> f64 {
        self.points.iter().map(|p| p.1).fold(0.0, f64::max)
    }

    /// The greatest value in each of `n` equal parts of the span; none where there is no point.
    pub(super) fn parts(&self, span: Span, n: usize) -> Vec<Option<f64>> {
        let mut parts = vec![None; n];
        let width = ((span.to_s - span.from_s).max(1)) as f64 / n as f64;
        for (at, value) in &self.points {
            let nth = ((at - span.from_s) as f64 / width).floor().clamp(0.0, n as f64 - 1.0) as usize;
            parts[nth] = Some(parts[nth].map_or(*value, |old: f64| old.max(*value)));
        }
        parts
    }
}

/// The lines of an answer, the greatest first.
pub(super) fn lines(answer: &Answer) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for row in &answer.rows {
        let [at, name, value] = row.as_slice() else { continue };
        let (Some(at), Some(value)) = (at.as_i64(), number(value)) else {
            continue;
        };
        let name = cell(name);
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push((at, value)),
            None => lines.push(Line {
                name,
                points: vec![(at, value)],
            }),
        }
    }
    lines.iter_mut().for_each(|line| line.points.sort_by_key(|p| p.0));
    lines.sort_by(|a, b| b.max().total_cmp(&a.max()).then_with(|| a.name.cmp(&b.name)));
    lines
}

/// Label and value of each bar: the last column is the value, the others say what it is of.
pub(super) fn bars(answer: &Answer) -> Vec<(String, f64)> {
    let bar = |row: &Vec<Value>| {
        let (value, label) = row.split_last()?;
        let label: Vec<_> = label.iter().map(cell).filter(|word| !word.is_empty()).collect();
        Some((label.join(" · "), number(value)?))
    };
    answer.rows.iter().filter_map(bar).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_shown_in_their_unit() {
        for (value, unit, wanted) in [
            (0.5, "%", "50 %"),
            (0.0123, "usd", "$0.0123"),
            (1536.0, "bytes", "1.50 KiB"),
            (0.25, "s", "250 ms"),
            (300.0, "s", "5 min"),
            (1500.0, "ms", "1.50 s"),
            (1_234_567.0, "", "1.23M"),
            (12.0, "requests", "12"),
        ] {
            assert_eq!(shown(value, unit), wanted);
        }
    }

    #[test]
    fn an_answer_becomes_lines_and_parts_of_a_span() {
        let rows = vec![
            vec![json!(60), json!("a"), json!(1)],
            vec![json!(0), json!("a"), json!(3)],
            vec![json!(0), json!("b"), json!("7.5")],
        ];
        let lines = lines(&Answer { columns: vec![], rows });
        assert_eq!(
            (lines[0].name.as_str(), lines[1].points.as_slice()),
            ("b", [(0, 3.0), (60, 1.0)].as_slice())
        );
        let span = Span { from_s: 0, to_s: 120 };
        assert_eq!(lines[1].parts(span, 4), [Some(3.0), None, Some(1.0), None]);
    }
}
