//! A run as text: its steps as a tree drawn by what they need. Pure: the same run at the same moment gives the same lines.

use std::collections::BTreeMap;

use schemas::Timestamp;
use schemas::records::{Run, RunStatus, RunStep, StepStatus};
use serde::Serialize;

use super::out::{self, BOLD, DIM, RED, YELLOW, paint};
use super::when;

/// The word of a status as it stands on the topic.
pub(super) fn word(status: &impl Serialize) -> String {
    serde_json::to_value(status)
        .ok()
        .and_then(|v| v.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// A status in its colour.
fn coloured(status: &impl Serialize) -> String {
    let word = word(status);
    out::colour_of(&word).map_or(word.clone(), |style| paint(style, &word))
}

fn symbol(status: StepStatus) -> &'static str {
    match status {
        StepStatus::Succeeded => "✓",
        StepStatus::Failed | StepStatus::CompensationFailed => "✗",
        StepStatus::Denied => "⊘",
        StepStatus::Unknown => "?",
        StepStatus::WaitingApproval => "✋",
        StepStatus::Running | StepStatus::Compensating => "▶",
        StepStatus::Retrying => "↻",
        StepStatus::Judging => "⚖",
        StepStatus::Compensated => "↩",
        StepStatus::Skipped => "-",
        StepStatus::Pending => "·",
    }
}

/// Whether nothing more will happen to the run.
pub(super) fn is_final(status: RunStatus) -> bool {
    status >= RunStatus::Succeeded
}

/// The run: a headline, its steps, what a human must decide, and why it ended.
pub(super) fn render(run: &Run, now: Timestamp) -> Vec<String> {
    let end = run.finished_at.unwrap_or(now);
    let what = run.capsule.as_deref().filter(|c| !c.is_empty()).unwrap_or("no capsule");
    let age = when::took(end.micros_since(run.requested_at) / 1000);
    let head = paint(BOLD, &run.run_id);
    let mut lines = vec![format!(
        "{head}  {}  {what}  tenant {}  {age}",
        coloured(&run.status),
        run.tenant
    )];
    if !run.goal.is_empty() {
        lines.push(paint(DIM, &out::short(&run.goal, 100)));
    }
    let tree = Tree::of(&run.steps);
    for (nth, root) in tree.roots.iter().enumerate() {
        tree.draw(*root, "", nth + 1 == tree.roots.len(), now, &mut lines);
    }
    for waiting in &run.waiting {
        let subject = format!("waits for a human: {}", waiting.subject_id);
        lines.push(format!(
            "{}: {}",
            paint(YELLOW, &subject),
            out::short(&waiting.reason, 120)
        ));
    }
    if let Some(fault) = &run.fault {
        lines.push(format!(
            "{} {}",
            paint(RED, &format!("{}:", fault.code)),
            out::short(&fault.detail, 200)
        ));
    } else if !run.reason.is_empty() {
        lines.push(out::short(&run.reason, 200));
    }
    lines
}

struct Tree<'a> {
    steps: &'a [RunStep],
    roots: Vec<usize>,
    children: BTreeMap<usize, Vec<usize>>,
}

impl<'a> Tree<'a> {
    /// A step hangs under the deepest of the steps it needs; the others are named beside it.
    fn of(steps: &'a [RunStep]) -> Self {
        let depths = depths(steps);
        let (mut roots, mut children) = (Vec::new(), BTreeMap::<usize, Vec<usize>>::new());
        for (i, step) in steps.iter().enumerate() {
            let needed = step
                .needs
                .iter()
                .filter_map(|n| at(steps, n))
                .filter(|n| depths[*n] < depths[i]);
            // The first of equals, so that the plan's order decides.
            match needed.rev().max_by_key(|n| depths[*n]) {
                Some(parent) => children.entry(parent).or_default().push(i),
                None => roots.push(i),
            }
        }
        Self { steps, roots, children }
    }

    fn draw(&self, i: usize, indent: &str, last: bool, now: Timestamp, lines: &mut Vec<String>) {
        let (branch, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        lines.push(format!("{indent}{branch}{}", self.text(i, now)));
        let children = self.children.get(&i).map(Vec::as_slice).unwrap_or_default();
        for (nth, child) in children.iter().enumerate() {
            self.draw(
                *child,
                &format!("{indent}{below}"),
                nth + 1 == children.len(),
                now,
                lines,
            );
        }
    }

    fn text(&self, i: usize, now: Timestamp) -> String {
        let step = &self.steps[i];
        let style = out::colour_of(&word(&step.status)).unwrap_or_default();
        let status = paint(style, &format!("{} {}", symbol(step.status), word(&step.status)));
        let mut text = format!(
            "{} {status} {}",
            step.step_id,
            paint(DIM, &format!("{} {}", step.tool, step.operation))
        );
        if step.attempt > 1 {
            text.push_str(&format!(" attempt {}", step.attempt));
        }
        if let Some(started) = step.started_at {
            let end = step.finished_at.unwrap_or(now);
            text.push_str(&format!(" {}", when::took(end.micros_since(started) / 1000)));
        }
        let parent = self
            .children
            .iter()
            .find(|(_, kids)| kids.contains(&i))
            .map(|(p, _)| self.steps[*p].step_id.as_str());
        let others: Vec<_> = step
            .needs
            .iter()
            .map(String::as_str)
            .filter(|n| Some(*n) != parent)
            .collect();
        if !others.is_empty() {
            text.push_str(&paint(DIM, &format!(" (also needs {})", others.join(", "))));
        }
        if let Some(fault) = &step.fault {
            text.push_str(&format!(
                " {}",
                paint(RED, &format!("{}: {}", fault.code, out::short(&fault.detail, 90)))
            ));
        }
        text
    }
}

fn at(steps: &[RunStep], id: &str) -> Option<usize> {
    steps.iter().position(|s| s.step_id == id)
}

/// How many steps lie before each, at most. A circle, which intake refuses, must not hang the operator's terminal: depth is
/// settled after as many rounds as there are steps.
fn depths(steps: &[RunStep]) -> Vec<usize> {
    let mut depths = vec![0; steps.len()];
    for _ in 0..steps.len() {
        for (i, step) in steps.iter().enumerate() {
            let deepest = step
                .needs
                .iter()
                .filter_map(|n| at(steps, n))
                .map(|n| depths[n] + 1)
                .max()
                .unwrap_or(0);
            depths[i] = deepest.min(steps.len());
        }
    }
    depths
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use schemas::records::FaultInfo;

    use super::*;

    fn step(id: &str, needs: &[&str], status: StepStatus) -> RunStep {
        let needs = needs.iter().map(|n| (*n).to_owned()).collect();
        RunStep {
            step_id: id.into(),
            tool: "http".into(),
            operation: "request".into(),
            needs,
            status,
            ..RunStep::default()
        }
    }

    fn plain(run: &Run) -> Vec<String> {
        render(run, Timestamp(2_000_000))
            .iter()
            .map(|l| anstream::adapter::strip_str(l).to_string())
            .collect()
    }

    #[test]
    fn steps_hang_under_what_they_need() {
        let steps = vec![
            step("plan", &[], StepStatus::Succeeded),
            RunStep {
                started_at: Some(Timestamp(500_000)),
                attempt: 2,
                ..step("apply", &["plan"], StepStatus::Running)
            },
            step("probe", &["plan"], StepStatus::Pending),
            step("notify", &["probe", "verify"], StepStatus::Pending),
            step("verify", &["apply"], StepStatus::Pending),
            step("aside", &[], StepStatus::Skipped),
        ];
        let run = Run {
            run_id: "run_1".into(),
            tenant: "acme".into(),
            status: RunStatus::Running,
            steps,
            ..Run::default()
        };
        let want = [
            "run_1  RUNNING  no capsule  tenant acme  2.0s",
            "├─ plan ✓ SUCCEEDED http request",
            "│  ├─ apply ▶ RUNNING http request attempt 2 1.5s",
            "│  │  └─ verify · PENDING http request",
            "│  │     └─ notify · PENDING http request (also needs probe)",
            "│  └─ probe · PENDING http request",
            "└─ aside - SKIPPED http request",
        ];
        assert_eq!(plain(&run), want);
    }

    #[test]
    fn circles_and_missing_needs_are_drawn_all_the_same() {
        let steps = vec![
            step("a", &["b"], StepStatus::Pending),
            step("b", &["a"], StepStatus::Pending),
            step("c", &["gone"], StepStatus::Pending),
        ];
        let text = plain(&Run {
            steps,
            ..Run::default()
        })
        .join("\n");
        for id in ["a ·", "b ·", "c ·"] {
            assert_eq!(text.matches(id).count(), 1, "{text}");
        }
    }

    #[test]
    fn what_failed_and_what_waits_is_said() {
        let fault = Some(FaultInfo {
            code: "TOOL_FAILED".into(),
            detail: "500".into(),
            retryable: false,
        });
        let failed = RunStep {
            fault: fault.clone(),
            ..step("a", &[], StepStatus::Failed)
        };
        let waiting = vec![schemas::records::Waiting {
            subject_id: "b".into(),
            reason: "destroys 1".into(),
            ..Default::default()
        }];
        let text = plain(&Run {
            steps: vec![failed],
            waiting,
            fault,
            ..Run::default()
        })
        .join("\n");
        assert!(text.contains("✗ FAILED http request TOOL_FAILED: 500"), "{text}");
        assert!(text.contains("waits for a human: b: destroys 1"), "{text}");
    }

    #[test]
    fn final_states_are_those_from_succeeded_on() {
        assert!(is_final(RunStatus::Succeeded) && is_final(RunStatus::Unknown) && is_final(RunStatus::Killed));
        assert!(!is_final(RunStatus::Compensating) && !is_final(RunStatus::Paused));
        assert_eq!(word(&RunStatus::WaitingApproval), "WAITING_APPROVAL");
    }
}
