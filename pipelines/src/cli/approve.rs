//! `soma approve`, `soma deny` and `soma delegate`: a human's word, bound to the digest and policy revision of exactly what was
//! shown, and the receipt that says whether it counts.

use std::time::Duration;

use kafka::{From, Tail};
use schemas::records::{Approval, ApprovalDecision, Ask, Delegation, Receipt, Run, Waiting};
use schemas::{Timestamp, digest, topics};
use serde_json::{Value as Json, json};

use super::context::{Context, now};
use super::failure::{Done, FAILED, Failure, OK};
use super::tree::{is_final, word};
use super::{out, runs, watch, when};

/// Longest wait for the orchestrator to take the answer up.
const EFFECT: Duration = Duration::from_secs(10);

/// Answers what a run waits for.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  soma run list --status waiting_approval            what waits
  soma approve 3f2a91                                shows it, asks, and approves
  soma approve 3f2a91 --step apply --comment 'change 4711' --expires 1h -y
  soma deny 3f2a91 --comment 'not on a Friday'
  soma deny 3f2a91 --changes --comment 'two replicas will do'
  soma delegate 3f2a91 --to lin                      somebody else may decide in your place

The answer holds for exactly what is shown: it carries its digest and policy revision. If either changes, the platform asks
again. Exit code: 0 it counts, 1 nothing waits, it was refused (the receipt says why) or not taken up within 10 s, 2 not clear
what is meant or not confirmed.")]
pub(super) struct Args {
    /// Run id, or its beginning
    run: String,
    /// Which of several waiting subjects: a step id or the plan id
    #[arg(long, value_name = "STEP")]
    step: Option<String>,
    /// Why
    #[arg(long, short, default_value = "")]
    comment: String,
    /// Who decides (default: $USER)
    #[arg(long = "as", value_name = "WHO")]
    who: Option<String>,
    /// The approval ends after so long, for example 1h
    #[arg(long, value_parser = when::duration_ms, value_name = "DURATION")]
    expires: Option<i64>,
    /// With deny: it may come again, changed as --comment says
    #[arg(long, requires = "comment")]
    changes: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// Hands a decision on.
#[derive(clap::Args)]
#[command(after_help = "Example:
  soma delegate 3f2a91 --to lin --comment 'on leave'

Who is named may then decide what you may decide, for exactly what is shown. Exit code: as soma approve.")]
pub(super) struct Handing {
    /// Run id, or its beginning
    run: String,
    /// Who may decide instead
    #[arg(long, value_name = "WHO")]
    to: String,
    /// Which of several waiting subjects: a step id or the plan id
    #[arg(long, value_name = "STEP")]
    step: Option<String>,
    /// Why
    #[arg(long, short, default_value = "")]
    comment: String,
    /// Who hands on (default: $USER)
    #[arg(long = "as", value_name = "WHO")]
    who: Option<String>,
}

pub(super) fn delegate(args: &Handing, cx: &Context) -> Done {
    let who = cx.actor(args.who.as_deref())?;
    let run = runs::find(cx, &args.run)?;
    let waiting = subject(&run, args.step.as_deref())?;
    let at = now();
    let parts = [
        &run.run_id,
        &waiting.subject_id,
        &waiting.digest,
        &who,
        &args.to,
        &at.0.to_string(),
    ];
    let delegation = Delegation {
        delegation_id: digest::id("del", &parts.map(String::as_str)),
        run_id: run.run_id.clone(),
        tenant: run.tenant.clone(),
        subject_id: waiting.subject_id.clone(),
        digest: waiting.digest.clone(),
        from: who,
        to: args.to.clone(),
        comment: args.comment.clone(),
        decided_at: at,
    };
    let mut receipts = Tail::open(&cx.brokers()?, topics::RECEIPTS.name, From::End)?;
    let writer = cx.writer()?;
    let trace = runtime::Trace::continuing(None).header();
    writer.write(topics::DELEGATIONS, &run.run_id, &run.tenant, &delegation, Some(&trace))?;
    writer.flush()?;
    let receipt = await_receipt(cx, &mut receipts, &run.run_id, &delegation.delegation_id)?;
    let effective = receipt.as_ref().is_some_and(|r| r.counted);
    if cx.json {
        out::json(&json!({"delegation": delegation, "receipt": receipt}))?;
    } else {
        out::line(match &receipt {
            Some(r) if r.counted => format!("{}: {}", delegation.delegation_id, r.detail),
            Some(r) => refusal(r),
            None => silence(&delegation.delegation_id),
        })?;
    }
    Ok(if effective { OK } else { FAILED })
}

/// The receipt for an answer, if one comes in time.
fn await_receipt(cx: &Context, tail: &mut Tail, run_id: &str, answer_id: &str) -> Result<Option<Receipt>, Failure> {
    let (registry, began) = (cx.registry()?, std::time::Instant::now());
    while began.elapsed() < EFFECT {
        // A broker that is away for a moment must not hide what is already written.
        let Ok(Some(record)) = tail.next(100) else { continue };
        if let (true, Some(value)) = (record.key == run_id, &record.value) {
            let receipt = kernel::decode::<Receipt>(value, registry.as_ref())?;
            if receipt.answer_id == answer_id {
                return Ok(Some(receipt));
            }
        }
    }
    Ok(None)
}

fn refusal(receipt: &Receipt) -> String {
    format!(
        "{} does not count: {} ({})",
        receipt.answer_id, receipt.detail, receipt.code
    )
}

fn silence(id: &str) -> String {
    format!(
        "{id} written, but nobody has taken it up within {} s; is the pipeline up? `soma stages`",
        EFFECT.as_secs()
    )
}

pub(super) fn run(args: &Args, decision: ApprovalDecision, cx: &Context) -> Done {
    if args.changes && decision == ApprovalDecision::Approve {
        return Err(Failure::input(
            "USAGE",
            "--changes goes with deny: what is approved is approved as it is",
            "soma deny RUN --changes --comment 'what to change'",
        ));
    }
    let who = cx.actor(args.who.as_deref())?;
    let run = runs::find(cx, &args.run)?;
    let waiting = subject(&run, args.step.as_deref())?;
    if !cx.json {
        shown(&run, waiting).iter().try_for_each(out::line)?;
    }
    let question = format!(
        "{} this as {who}?",
        if decision == ApprovalDecision::Approve {
            "Approve"
        } else {
            "Deny"
        }
    );
    if !args.yes && !out::confirm(&question)? {
        return Err(Failure::input(
            "NOT_CONFIRMED",
            "nothing was written",
            "answer y, or add -y",
        ));
    }
    let approval = answer(&run, waiting, decision, &who, args, now());
    // Opened before writing: the effect may be there sooner than a tail opened afterwards.
    let mut tail = Tail::open(&cx.brokers()?, topics::RUNS.name, From::End)?;
    let mut receipts = Tail::open(&cx.brokers()?, topics::RECEIPTS.name, From::End)?;
    let writer = cx.writer()?;
    let trace = runtime::Trace::continuing(None).header();
    writer.write(topics::APPROVALS, &run.run_id, &run.tenant, &approval, Some(&trace))?;
    writer.flush()?;
    let receipt = await_receipt(cx, &mut receipts, &run.run_id, &approval.approval_id)?;
    let effective = receipt.as_ref().is_some_and(|r| r.counted);
    let counts = |w: &Waiting| w.given.iter().any(|g| g.approval_id == approval.approval_id);
    let still = |now: &Run| now.waiting.iter().find(|w| w.subject_id == waiting.subject_id).cloned();
    let taken = |now: &Run| is_final(now.status) || still(now).is_none_or(|w| counts(&w));
    let seen = match effective {
        true => watch::await_run(cx, &mut tail, &run.run_id, EFFECT, &taken)?,
        false => None,
    };
    if cx.json {
        let status = seen.as_ref().map_or(Json::Null, |run| json!(word(&run.status)));
        out::json(&json!({"approval": approval, "receipt": receipt, "taken_up": effective, "run_status": status}))?;
    } else {
        out::line(match &receipt {
            Some(r) if r.counted => said(&approval, r, seen.as_ref()),
            Some(r) => refusal(r),
            None => silence(&approval.approval_id),
        })?;
    }
    Ok(if effective { OK } else { FAILED })
}

/// The one thing that waits, or the one that was named.
fn subject<'a>(run: &'a Run, named: Option<&str>) -> Result<&'a Waiting, Failure> {
    let list = || {
        run.waiting
            .iter()
            .map(|w| w.subject_id.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let fitting: Vec<_> = run
        .waiting
        .iter()
        .filter(|w| named.is_none_or(|n| n == w.subject_id))
        .collect();
    match (fitting.as_slice(), named) {
        ([one], _) => Ok(one),
        ([], _) if run.waiting.is_empty() => {
            let text = format!(
                "nothing of {} waits for a human: it is {}",
                run.run_id,
                word(&run.status)
            );
            Err(Failure::failed(
                "NOTHING_WAITS",
                text,
                "`soma run list --status waiting_approval` shows what waits",
            ))
        }
        ([], Some(name)) => Err(Failure::input(
            "STEP_UNKNOWN",
            format!("{name} does not wait; waiting are {}", list()),
            "name one of them with --step",
        )),
        _ => Err(Failure::input(
            "STEP_AMBIGUOUS",
            format!("several wait: {}", list()),
            "name one with --step",
        )),
    }
}

/// Exactly what is decided upon.
fn shown(run: &Run, waiting: &Waiting) -> Vec<String> {
    let arguments =
        serde_json::from_str::<Json>(&waiting.arguments).map_or(waiting.arguments.clone(), |v| format!("{v:#}"));
    let step = run.steps.iter().find(|s| s.step_id == waiting.subject_id);
    let action = step
        .map(|s| format!(" ({} {})", s.tool, s.operation))
        .unwrap_or_default();
    let label = |name: &str| out::paint(out::BOLD, &format!("{name:<10}"));
    let mut lines = vec![
        format!("{} {} of tenant {}", label("run"), run.run_id, run.tenant),
        format!("{} {}", label("goal"), run.goal),
        format!(
            "{} {} {}{action}",
            label("decide"),
            word(&waiting.subject),
            waiting.subject_id
        ),
        format!("{} {}", label("reason"), waiting.reason),
        format!("{}\n{arguments}", label("arguments")),
        format!("{} {}", label("digest"), waiting.digest),
        format!("{} {}", label("policy"), waiting.policy_revision),
        format!("{} {}", label("waits since"), when::shown(waiting.since)),
    ];
    lines.extend(
        waiting
            .until
            .map(|until| format!("{} {}", label("until"), when::shown(until))),
    );
    lines.extend(
        waiting
            .asks
            .iter()
            .map(|ask| format!("{} {}", label("needs"), needs(ask))),
    );
    let given = waiting.given.iter().map(|g| match &g.on_behalf_of {
        Some(other) => format!("{} {} for {other}", label("approved"), g.approver),
        None => format!("{} {}", label("approved"), g.approver),
    });
    lines.extend(given);
    let handed = waiting.handed_on.iter();
    lines.extend(handed.map(|h| format!("{} {} to {}", label("handed on"), h.from, h.to)));
    lines
}

/// What one rule wants, in words.
pub(super) fn needs(ask: &Ask) -> String {
    let mut who: Vec<_> = ask.approvers.clone();
    who.extend(ask.roles.iter().map(|r| format!("role {r}")));
    let who = if who.is_empty() {
        "anyone but who asked".to_owned()
    } else {
        who.join(" or ")
    };
    let later = ask.deputies.iter().map(|d| {
        let who: Vec<_> = d.approvers.iter().chain(&d.roles).cloned().collect();
        format!("; after {} also {}", when::took(d.after_s * 1000), who.join(" or "))
    });
    let rule = if ask.rule.is_empty() { "the policy" } else { &ask.rule };
    format!("{} of {who} ({rule}){}", ask.quorum, later.collect::<String>())
}

fn answer(
    run: &Run,
    waiting: &Waiting,
    decision: ApprovalDecision,
    who: &str,
    args: &Args,
    now: Timestamp,
) -> Approval {
    Approval {
        approval_id: digest::id(
            "apr",
            &[
                &run.run_id,
                &waiting.subject_id,
                &waiting.digest,
                who,
                &now.0.to_string(),
            ],
        ),
        run_id: run.run_id.clone(),
        tenant: run.tenant.clone(),
        subject_id: waiting.subject_id.clone(),
        decision,
        digest: waiting.digest.clone(),
        policy_revision: waiting.policy_revision.clone(),
        approver: who.to_owned(),
        comment: args.comment.clone(),
        changes_requested: args.changes,
        expires_at: args.expires.map(|ms| now.plus_ms(ms)),
        decided_at: now,
    }
}

fn said(approval: &Approval, receipt: &Receipt, seen: Option<&Run>) -> String {
    let id = &approval.approval_id;
    let status = seen.map_or_else(|| "not seen yet".to_owned(), |run| word(&run.status));
    if receipt.detail.is_empty() {
        format!("{id} counts: the run is {status}")
    } else {
        format!("{id} counts; {} still waits: {}", approval.subject_id, receipt.detail)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn run(waiting: &[&str]) -> Run {
        let entry = |id: &&str| Waiting {
            subject_id: (*id).to_owned(),
            digest: format!("digest of {id}"),
            policy_revision: "rev1".into(),
            arguments: r#"{"a":1}"#.into(),
            ..Waiting::default()
        };
        Run {
            run_id: "run_1".into(),
            tenant: "acme".into(),
            waiting: waiting.iter().map(entry).collect(),
            ..Run::default()
        }
    }

    #[test]
    fn the_subject_must_be_clear() {
        assert_eq!(subject(&run(&["apply"]), None).unwrap().subject_id, "apply");
        assert_eq!(subject(&run(&["a", "b"]), Some("b")).unwrap().subject_id, "b");
        assert_eq!(subject(&run(&["a", "b"]), None).unwrap_err().code, "STEP_AMBIGUOUS");
        assert_eq!(subject(&run(&["a"]), Some("z")).unwrap_err().code, "STEP_UNKNOWN");
        assert_eq!(subject(&run(&[]), None).unwrap_err().code, "NOTHING_WAITS");
    }

    #[test]
    fn the_answer_is_bound_to_what_was_shown() {
        let run = run(&["apply"]);
        let args = Args {
            run: String::new(),
            step: None,
            comment: "ok".into(),
            who: None,
            expires: Some(60_000),
            changes: false,
            yes: true,
        };
        let approval = answer(
            &run,
            &run.waiting[0],
            ApprovalDecision::Deny,
            "ada",
            &args,
            Timestamp(5),
        );
        assert_eq!(
            (approval.digest.as_str(), approval.policy_revision.as_str()),
            ("digest of apply", "rev1")
        );
        assert_eq!(
            (approval.expires_at, approval.decision),
            (Some(Timestamp(60_000_005)), ApprovalDecision::Deny)
        );
        assert!(approval.approval_id.starts_with("apr_") && approval.approval_id.len() == 36);
        let text = shown(&run, &run.waiting[0]).join("\n");
        assert!(text.contains("digest of apply") && text.contains("\"a\": 1"), "{text}");
    }
}
