//! Who worked on which partition and where it stood still, requests committed by each instance, and what was not yet committed, over
//! time with the events marked, as an SVG.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use schemas::records::Request;

use super::handover::{Event, Seen};
use super::plot::{HEIGHT, LEFT, WIDTH, axis, line};

const TOP: f64 = 90.0;
const ROW: f64 = 18.0;
/// A longer time without a commit is left white.
const STANDS_S: f64 = 0.5;
const COLOURS: [(&str, &str); 3] = [("a", "royalblue"), ("b", "darkorange"), ("c", "seagreen")];

fn colour(owner: Option<&str>) -> &'static str {
    let known = COLOURS.iter().find(|(name, _)| Some(*name) == owner);
    known.map_or("silver", |(_, colour)| colour)
}

/// One row a partition: who worked on it, white where nothing was committed.
fn rows(svg: &mut String, seen: &Seen, x: impl Fn(f64) -> f64) -> f64 {
    let mut y = TOP;
    for (partition, commits) in &seen.commits {
        let mut runs: Vec<(f64, f64, &str)> = Vec::new();
        for pair in commits.windows(2) {
            let (from, to) = (pair[0].0, pair[1].0);
            let colour = colour(seen.owner(*partition, to));
            match runs.last_mut() {
                _ if to - from > STANDS_S => {}
                Some(last) if last.1 == from && last.2 == colour => last.1 = to,
                _ => runs.push((from, to, colour)),
            }
        }
        for (from, to, colour) in runs {
            writeln!(
                svg,
                r#"<rect x="{:.1}" y="{y:.0}" width="{:.1}" height="{:.0}" fill="{colour}"/>"#,
                x(from),
                x(to) - x(from),
                ROW - 3.0
            )
            .unwrap();
        }
        writeln!(
            svg,
            r#"<text x="{}" y="{:.0}" text-anchor="end">{partition}</text>"#,
            LEFT - 6.0,
            y + ROW - 6.0
        )
        .unwrap();
        y += ROW;
    }
    y
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a picture"
)]
fn per_second(seen: &Seen, began: f64, seconds: usize) -> BTreeMap<&str, Vec<f64>> {
    let mut rates: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (partition, commits) in &seen.commits {
        for pair in commits.windows(2) {
            let (at, done) = (pair[1].0, (pair[1].1 - pair[0].1) as f64);
            let owner = seen.owner(*partition, at).unwrap_or_default();
            let rate = rates.entry(owner).or_insert_with(|| vec![0.0; seconds]);
            if let Some(count) = rate.get_mut((at - began).max(0.0) as usize) {
                *count += done;
            }
        }
    }
    rates
}

/// Requests asked for and not yet committed, at the end of each second.
#[allow(clippy::cast_precision_loss, reason = "a picture")]
fn lag(seen: &Seen, began: f64, seconds: usize, asked: &[Request]) -> Vec<f64> {
    let first: i64 = seen.commits.values().filter_map(|c| c.first()).map(|c| c.1).sum();
    let at_first = asked.iter().filter(|r| (r.requested_at.0 as f64) / 1e6 < began).count() as f64;
    let before = (at_first - first as f64).max(0.0);
    (1..=seconds)
        .map(|second| {
            let until = began + second as f64;
            let sent = asked.iter().filter(|r| (r.requested_at.0 as f64) / 1e6 < until).count() as f64 - at_first;
            let each = seen.commits.values().filter_map(|commits| {
                let (from, to) = (commits.first()?, commits.iter().rev().find(|c| c.0 <= until)?);
                Some((to.1 - from.1) as f64)
            });
            (before + sent - each.sum::<f64>()).max(0.0)
        })
        .collect()
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a picture"
)]
pub(super) fn write(path: &Path, seen: &Seen, events: &[Event], asked: &[Request]) {
    let began = events.first().map_or(0.0, |e| e.at);
    let ended = seen.owners.last().map_or(began, |(at, _)| *at);
    let seconds = (ended - began).max(1.0) as usize + 1;
    let x = |at: f64| LEFT + (at - began).clamp(0.0, seconds as f64) / seconds as f64 * WIDTH;
    let mut body = String::new();
    let after_rows = rows(&mut body, seen, x);
    let (first, second) = (after_rows + 50.0, after_rows + HEIGHT + 110.0);
    let rates = per_second(seen, began, seconds);
    let most = |all: &[f64]| all.iter().copied().fold(1.0, f64::max);
    let fastest = rates.values().map(|r| most(r)).fold(1.0, f64::max);
    axis(&mut body, first, fastest, "requests committed per second, by instance");
    for (owner, rate) in &rates {
        line(&mut body, rate, first, fastest, colour(Some(owner)));
    }
    let behind = lag(seen, began, seconds, asked);
    axis(
        &mut body,
        second,
        most(&behind),
        "requests asked for and not yet committed",
    );
    line(&mut body, &behind, second, most(&behind), "crimson");
    let bottom = second + HEIGHT;
    for event in events {
        let at = x(event.at);
        writeln!(
            body,
            r#"<line x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{bottom:.0}" stroke="dimgrey" stroke-dasharray="3 3"/><text transform="translate({:.1},{:.0}) rotate(-35)">{}</text>"#,
            at + 4.0,
            TOP - 8.0,
            event.what
        )
        .unwrap();
    }
    for tick in 0..=10 {
        let at = seconds as f64 * f64::from(tick) / 10.0;
        writeln!(
            body,
            r#"<text x="{:.0}" y="{:.0}" text-anchor="middle">{at:.0} s</text>"#,
            x(began + at),
            bottom + 18.0
        )
        .unwrap();
    }
    let legend: Vec<_> = COLOURS
        .iter()
        .map(|(name, colour)| format!(r#"<tspan fill="{colour}">instance {name} </tspan>"#))
        .collect();
    let (full, tall) = (WIDTH + LEFT + 20.0, bottom + 40.0);
    let svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{full}" height="{tall}" font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>
<text x="{LEFT}" y="16"><tspan font-weight="bold">who works on each partition; white: no commit for over {STANDS_S} s. </tspan>{}</text>
{body}</svg>
"#,
        legend.concat()
    );
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, svg).unwrap();
}
