//! Requests, ended runs and open runs over time with the faults marked, as an SVG.

use std::fmt::Write;
use std::path::Path;

use schemas::Timestamp;
use schemas::records::Request;

use super::faults::Fault;

pub(super) const WIDTH: f64 = 1200.0;
pub(super) const HEIGHT: f64 = 260.0;
pub(super) const LEFT: f64 = 60.0;
const TOP: f64 = 190.0;

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a picture"
)]
fn per_second(began: Timestamp, times: impl Iterator<Item = Timestamp>, seconds: usize) -> Vec<f64> {
    let mut counts = vec![0.0; seconds];
    for t in times {
        let at = ((t.0 - began.0) as f64 / 1e6).max(0.0) as usize;
        if let Some(count) = counts.get_mut(at) {
            *count += 1.0;
        }
    }
    counts
}

pub(super) fn line(svg: &mut String, values: &[f64], top: f64, most: f64, colour: &str) {
    #[allow(clippy::cast_precision_loss, reason = "a picture")]
    let points: Vec<String> = values
        .iter()
        .enumerate()
        .map(|(i, v)| {
            let x = LEFT + i as f64 * WIDTH / values.len() as f64;
            format!("{x:.1},{:.1}", top + HEIGHT - v / most * HEIGHT)
        })
        .collect();
    writeln!(
        svg,
        r#"<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{}"/>"#,
        points.join(" ")
    )
    .unwrap();
}

pub(super) fn axis(svg: &mut String, top: f64, most: f64, title: &str) {
    writeln!(
        svg,
        r#"<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="grey"/>"#
    )
    .unwrap();
    writeln!(
        svg,
        r#"<text x="{LEFT}" y="{}" font-weight="bold">{title}</text>"#,
        top - 6.0
    )
    .unwrap();
    for part in 0..=4 {
        let share = f64::from(part) / 4.0;
        let y = top + HEIGHT - share * HEIGHT;
        writeln!(
            svg,
            r#"<text x="{}" y="{y:.0}" text-anchor="end">{:.0}</text>"#,
            LEFT - 6.0,
            share * most
        )
        .unwrap();
    }
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a picture"
)]
pub(super) fn write(path: &Path, began: Timestamp, asked: &[Request], ended: &[Timestamp], faults: &[Fault]) {
    let last = ended.iter().map(|t| t.0).max().unwrap_or(began.0);
    let seconds = ((last - began.0) / 1_000_000).max(1) as usize + 1;
    let asked = per_second(began, asked.iter().map(|r| r.requested_at), seconds);
    let ended = per_second(began, ended.iter().copied(), seconds);
    let mut level = 0.0;
    let open: Vec<f64> = asked
        .iter()
        .zip(&ended)
        .map(|(a, e)| {
            level += a - e;
            level
        })
        .collect();
    let most = |values: &[f64]| values.iter().copied().fold(1.0, f64::max);
    let rate = most(&ended).max(most(&asked));
    let second = TOP + HEIGHT + 60.0;
    let mut svg = String::new();
    let (full, tall) = (WIDTH + LEFT + 20.0, second + HEIGHT + 40.0);
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{full}" height="{tall}" font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>"#
    )
    .unwrap();
    axis(&mut svg, TOP, rate, "runs per second: asked for (grey), ended (blue)");
    line(&mut svg, &asked, TOP, rate, "silver");
    line(&mut svg, &ended, TOP, rate, "royalblue");
    axis(&mut svg, second, most(&open), "open runs: asked for and not ended");
    line(&mut svg, &open, second, most(&open), "darkorange");
    for fault in faults {
        let x = LEFT + (fault.at.0 - began.0) as f64 / 1e6 * WIDTH / seconds as f64;
        writeln!(
            svg,
            r#"<line x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{:.0}" stroke="crimson" stroke-dasharray="3 3"/><text transform="translate({:.1},{:.0}) rotate(-35)" fill="crimson">{}</text>"#,
            second + HEIGHT,
            x + 4.0,
            TOP - 22.0,
            fault.what
        )
        .unwrap();
    }
    for tick in 0..=10 {
        let at = seconds as f64 * f64::from(tick) / 10.0;
        let x = LEFT + WIDTH * f64::from(tick) / 10.0;
        writeln!(
            svg,
            r#"<text x="{x:.0}" y="{:.0}" text-anchor="middle">{at:.0} s</text>"#,
            second + HEIGHT + 18.0
        )
        .unwrap();
    }
    svg.push_str("</svg>\n");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, svg).unwrap();
}
