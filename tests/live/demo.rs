//! The demo is the main job: it computes its line from the topics and the stores, and fails when they disagree.

use super::analytics;
use super::harness::{live, text};

#[test]
fn the_demo_agrees_with_every_store() {
    let out = live().soma(&["demo"]);
    let shown = text(&out.stdout) + &text(&out.stderr);
    assert!(out.status.success(), "{shown}");
    let line = shown
        .lines()
        .rfind(|l| l.starts_with("demo runs="))
        .unwrap_or_else(|| panic!("no demo line: {shown}"));
    for word in ["dlq=1", "duplicates_dropped=1", "lost=0"] {
        assert!(line.contains(word), "{line}");
    }
    for word in ["succeeded=0", "denied=0", "escalated=0", "compensated=0"] {
        assert!(!line.contains(word), "{line}");
    }
    println!("{line}");
    let mut wrong = analytics::every_panel_answers(live());
    wrong.extend(analytics::agree(live()));
    assert!(wrong.is_empty(), "{wrong:#?}");
}
