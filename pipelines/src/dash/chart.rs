//! A panel as SVG: lines over time with a scale and a legend, and bars. Pure; text is escaped, nothing is fetched.

use std::fmt::Write as _;

use super::Span;
use super::numbers::{Line, shown};

/// Series drawn; the rest is counted in the legend.
const LINES_MAX: usize = 8;
const BARS_MAX: usize = 10;
const COLOURS: [&str; LINES_MAX] = [
    "#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f",
];
const WIDTH: f64 = 560.0;
const PLOT: f64 = 150.0;
const LEFT: f64 = 58.0;
const TOP: f64 = 8.0;

/// Text that is safe between tags and in attributes.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Adds to the drawing. A String always takes more.
macro_rules! add {
    ($svg:ident, $($words:tt)*) => { if write!($svg, $($words)*).is_err() { return $svg } };
}

/// A number at or above the greatest value that is easy to read.
fn top_of(max: f64) -> f64 {
    if max <= 0.0 {
        return 1.0;
    }
    let ten = 10f64.powf(max.log10().floor());
    let steps = [1.0, 1.2, 1.6, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    steps
        .iter()
        .map(|step| step * ten)
        .find(|top| *top >= max)
        .unwrap_or(max)
}

fn clock(seconds: i64, span: Span) -> String {
    let long = span.to_s - span.from_s > 36 * 3600;
    let format = if long { "%d %b %H:%M" } else { "%H:%M" };
    chrono::DateTime::from_timestamp(seconds, 0).map_or_else(String::new, |at| at.format(format).to_string())
}

/// The stretches of a line: it is not drawn where points are missing, for nothing is known of that time.
fn stretches(line: &Line, step: i64) -> Vec<&[(i64, f64)]> {
    let gap = step * 5 / 2;
    line.points.chunk_by(|a, b| b.0 - a.0 <= gap).collect()
}

/// The least time between two points of a line, of all lines.
fn step_of(all: &[Line]) -> i64 {
    let steps = all
        .iter()
        .flat_map(|line| line.points.windows(2).map(|w| w[1].0 - w[0].0));
    steps.filter(|step| *step > 0).min().unwrap_or(60)
}

/// Lines over time.
pub(super) fn over_time(all: &[Line], unit: &str, span: Span) -> String {
    let drawn = &all[..all.len().min(LINES_MAX)];
    let top = top_of(drawn.iter().map(Line::max).fold(0.0, f64::max));
    let rows = all.len().min(LINES_MAX + 1).div_ceil(2) as f64;
    let height = TOP + PLOT + 24.0 + rows * 18.0;
    let wide = WIDTH - LEFT - 24.0;
    let x = |at: i64| LEFT + wide * (at - span.from_s) as f64 / (span.to_s - span.from_s).max(1) as f64;
    let y = |value: f64| TOP + PLOT * (1.0 - (value / top).clamp(0.0, 1.0));
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">");
    for nth in 0..=4 {
        let value = top * f64::from(nth) / 4.0;
        let at = y(value);
        add!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" class=\"grid\"/>",
            LEFT + wide
        );
        add!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" class=\"scale end\">{}</text>",
            LEFT - 6.0,
            at + 4.0,
            shown(value, unit)
        );
    }
    for nth in 0..=4i64 {
        let at = span.from_s + (span.to_s - span.from_s) * nth / 4;
        let (place, text) = (x(at), clock(at, span));
        add!(
            svg,
            "<text x=\"{place:.1}\" y=\"{}\" class=\"scale middle\">{text}</text>",
            TOP + PLOT + 16.0
        );
    }
    let step = step_of(drawn);
    for (line, colour) in drawn.iter().zip(COLOURS) {
        for stretch in stretches(line, step) {
            let points: Vec<_> = stretch
                .iter()
                .map(|(at, v)| format!("{:.1},{:.1}", x(*at), y(*v)))
                .collect();
            let points = points.join(" ");
            add!(
                svg,
                "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\"/>"
            );
        }
        for (at, value) in line.points.iter().filter(|_| line.points.len() < 90) {
            add!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2\" fill=\"{colour}\"/>",
                x(*at),
                y(*value)
            );
        }
    }
    legend(svg, all, unit)
}

fn legend(mut svg: String, all: &[Line], unit: &str) -> String {
    for (nth, line) in all.iter().take(LINES_MAX).enumerate() {
        let (x, y) = (
            LEFT + (nth % 2) as f64 * 250.0,
            TOP + PLOT + 38.0 + (nth / 2) as f64 * 18.0,
        );
        add!(
            svg,
            "<rect x=\"{x}\" y=\"{}\" width=\"10\" height=\"10\" rx=\"2\" fill=\"{}\"/>",
            y - 9.0,
            COLOURS[nth]
        );
        let name = match line.name.chars().count() {
            0 => "all".to_owned(),
            n if n > 24 => line.name.chars().take(23).chain(['…']).collect(),
            _ => line.name.clone(),
        };
        let told = format!("{name}  max {}", shown(line.max(), unit));
        add!(
            svg,
            "<text x=\"{}\" y=\"{y}\" class=\"word\">{}</text>",
            x + 15.0,
            escaped(&told)
        );
    }
    if all.len() > LINES_MAX {
        let y = TOP + PLOT + 38.0 + (LINES_MAX / 2) as f64 * 18.0;
        add!(
            svg,
            "<text x=\"{LEFT}\" y=\"{y}\" class=\"word\">and {} more series</text>",
            all.len() - LINES_MAX
        );
    }
    svg + "</svg>"
}

/// Bars, one under the other.
pub(super) fn side_by_side(all: &[(String, f64)], unit: &str) -> String {
    let drawn = &all[..all.len().min(BARS_MAX)];
    let named = 232.0;
    let wide = WIDTH - named - 84.0;
    let rest = usize::from(all.len() > BARS_MAX);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\">",
        (drawn.len() + rest) as f64 * 24.0 + 8.0
    );
    let max = drawn.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    for (nth, (label, value)) in drawn.iter().enumerate() {
        let y = nth as f64 * 24.0 + 4.0;
        let long = if max > 0.0 { (wide * value / max).max(1.0) } else { 1.0 };
        let label: String = if label.chars().count() > 31 {
            label.chars().take(30).chain(['…']).collect()
        } else {
            label.clone()
        };
        add!(
            svg,
            "<text x=\"{}\" y=\"{}\" class=\"word end\">{}</text>",
            named - 8.0,
            y + 14.0,
            escaped(&label)
        );
        add!(
            svg,
            "<rect x=\"{named}\" y=\"{y}\" width=\"{long:.1}\" height=\"18\" rx=\"2\" fill=\"{}\"/>",
            COLOURS[0]
        );
        add!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" class=\"word\">{}</text>",
            named + long + 6.0,
            y + 14.0,
            shown(*value, unit)
        );
    }
    if rest > 0 {
        let y = drawn.len() as f64 * 24.0 + 18.0;
        add!(
            svg,
            "<text x=\"{named}\" y=\"{y}\" class=\"word\">and {} more</text>",
            all.len() - BARS_MAX
        );
    }
    svg + "</svg>"
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn drawings_hold_every_series_and_escape_names() {
        let line = |n: usize| Line {
            name: format!("<s{n}>"),
            points: vec![(0, 1.0), (60, n as f64)],
        };
        let all: Vec<_> = (0..10).map(line).collect();
        let span = Span { from_s: 0, to_s: 120 };
        let svg = over_time(&all, "", span);
        assert_eq!(svg.matches("<polyline").count(), LINES_MAX);
        let gap = Line {
            name: String::new(),
            points: vec![(0, 1.0), (60, 2.0), (600, 1.0), (660, 1.0)],
        };
        assert_eq!(stretches(&gap, step_of(std::slice::from_ref(&gap))).len(), 2);
        assert!(svg.contains("&lt;s3&gt;") && !svg.contains("<s3>") && svg.contains("and 2 more series"));
        let svg = side_by_side(&[("a & b".into(), 2.0), ("c".into(), 1.0)], "s");
        assert!(svg.contains("a &amp; b") && svg.contains("2 s") && svg.ends_with("</svg>"));
    }

    #[test]
    fn the_scale_ends_above_the_greatest() {
        for (max, top) in [(0.0, 1.0), (9.0, 10.0), (10.0, 10.0), (21.0, 25.0), (0.034, 0.04)] {
            assert!((top_of(max) - top).abs() < 1e-9, "{max}: {}", top_of(max));
        }
    }
}
