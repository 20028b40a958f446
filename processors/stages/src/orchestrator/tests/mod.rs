//! A driver that feeds records to the orchestrator and keeps what it writes. It plays the log, the clock and the
//! other ends of
//! the topics by writing the records they would write; it is no stand-in for a server.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod compensation;
mod controls;
mod flow;
mod humans;
mod judging;
mod redelivery;

use std::collections::BTreeMap;

use kernel::controls::Controls;
use kernel::{Delivery, Effects, Headers, Position, Processor, Signal, Timer};
use schemas::records::*;
use schemas::{Record, Timestamp, Usd, digest};

use super::{Config, Input, Orchestrator, State};

pub(super) const REVISION: &str = "policy-1";
pub(super) const HOUR_MS: i64 = 3_600_000;

pub(super) struct Driver {
    pub(super) stage: Orchestrator,
    pub(super) state: State,
    pub(super) controls: Controls,
    pub(super) now: Timestamp,
    pub(super) timers: BTreeMap<String, Timestamp>,
    pub(super) calls: Vec<Call>,
    pub(super) proposals: Vec<Proposal>,
    pub(super) runs: Vec<Run>,
    pub(super) events: Vec<Event>,
    pub(super) receipts: Vec<Receipt>,
    /// Every record fed, in order.
    pub(super) fed: Vec<Input>,
    verdicts: i64,
}

impl Driver {
    pub(super) fn new() -> Self {
        Self {
            // What is judged stays judged; `humans` looks at what is judged again.
            stage: Orchestrator::new(Config {
                permit_ms: i64::MAX,
                ..Config::default()
            }),
            state: State::default(),
            controls: Controls::default(),
            now: Timestamp(1_000_000),
            timers: BTreeMap::new(),
            calls: Vec::new(),
            proposals: Vec::new(),
            runs: Vec::new(),
            events: Vec::new(),
            receipts: Vec::new(),
            fed: Vec::new(),
            verdicts: 0,
        }
    }

    /// A run whose plan is here and allowed as a whole, static steps signed.
    pub(super) fn running(steps: Vec<Step>) -> Self {
        let mut driver = Self::new();
        let plan = plan(steps);
        driver.feed(Input::Plan(Box::new(plan.clone())));
        driver.plan_verdict(&plan, Decision::Allow);
        driver
    }

    pub(super) fn feed(&mut self, input: Input) {
        self.fed.push(input.clone());
        self.now = self.now.plus_ms(1);
        let delivery = Delivery {
            input,
            key: "run_1".into(),
            position: Position {
                topic: "t".into(),
                partition: 0,
                offset: self.fed.len() as i64,
            },
            headers: Headers::default(),
            at: self.now,
        };
        self.with(|stage, state, fx| stage.step(state, &delivery, fx).unwrap());
    }

    fn with(&mut self, act: impl FnOnce(&Orchestrator, &mut State, &mut Effects<'_>)) {
        // Through JSON and back each time, as the changelog would have it.
        let text = serde_json::to_string(&self.state).unwrap();
        let mut state: State = serde_json::from_str(&text).unwrap();
        assert_eq!(state, self.state);
        let seed = format!("seed{}", self.now.0);
        let mut fx = Effects::new(self.now, "run_1", &seed, &self.controls);
        act(&self.stage, &mut state, &mut fx);
        self.state = state;
        for name in fx.timers_dropped {
            self.timers.remove(&name);
        }
        for timer in fx.timers {
            self.timers.insert(timer.name, timer.due);
        }
        for emit in fx.emits {
            assert_eq!(
                (emit.key.as_str(), emit.tenant.as_str()),
                ("run_1", "acme"),
                "{}",
                emit.topic
            );
            match emit.topic {
                "soma.calls" => self.calls.push(Call::from_avro(Call::schema(), &emit.avro).unwrap()),
                "soma.proposals" => self
                    .proposals
                    .push(Proposal::from_avro(Proposal::schema(), &emit.avro).unwrap()),
                "soma.runs" => self.runs.push(Run::from_avro(Run::schema(), &emit.avro).unwrap()),
                "soma.events" => self.events.push(Event::from_avro(Event::schema(), &emit.avro).unwrap()),
                "soma.receipts" => self
                    .receipts
                    .push(Receipt::from_avro(Receipt::schema(), &emit.avro).unwrap()),
                other => panic!("unexpected topic {other}"),
            }
        }
    }

    /// Lets time pass, firing timers as they come due.
    pub(super) fn pass(&mut self, ms: i64) {
        let until = self.now.plus_ms(ms);
        while let Some((name, due)) = self
            .timers
            .iter()
            .filter(|(_, due)| **due <= until)
            .min_by_key(|(_, due)| **due)
            .map(|(n, d)| (n.clone(), *d))
        {
            self.timers.remove(&name);
            self.now = self.now.max(due);
            self.with(|stage, state, fx| stage.on_timer(state, &Timer { name, due }, fx).unwrap());
        }
        self.now = until;
    }

    pub(super) fn control(&mut self, scope: Scope, target: &str, action: ControlAction) {
        let control = Control {
            scope,
            target: target.into(),
            action,
            reason: "because".into(),
            actor: "ops".into(),
            issued_at: self.now,
            seconded_by: None,
        };
        self.controls.apply(control.clone());
        self.now = self.now.plus_ms(1);
        self.with(|stage, state, fx| stage.on_signal(state, &Signal::Control(Box::new(control)), fx).unwrap());
    }

    pub(super) fn run(&self) -> &Run {
        self.runs.last().expect("a Run was published")
    }

    pub(super) fn step(&self, id: &str) -> &RunStep {
        self.run().steps.iter().find(|s| s.step_id == id).unwrap()
    }

    pub(super) fn statuses(&self) -> Vec<RunStatus> {
        let mut seen: Vec<RunStatus> = self.runs.iter().map(|r| r.status).collect();
        seen.dedup();
        seen
    }

    pub(super) fn called(&self) -> Vec<String> {
        let name = |c: &Call| {
            let kind = if c.kind == CallKind::Action { "" } else { "-" };
            format!("{kind}{}#{}", c.step_id, c.attempt)
        };
        self.calls.iter().map(name).collect()
    }

    pub(super) fn event_kinds(&self) -> Vec<&str> {
        self.events.iter().map(|e| e.kind.as_str()).collect()
    }

    pub(super) fn event(&self, kind: &str) -> &Event {
        self.events
            .iter()
            .rfind(|e| e.kind == kind)
            .unwrap_or_else(|| panic!("no {kind} in {:?}", self.event_kinds()))
    }

    fn verdict(
        &mut self,
        subject: Subject,
        id: &str,
        digest: &str,
        decision: Decision,
        steps: Vec<StepVerdict>,
    ) -> Verdict {
        self.verdicts += 1;
        let rule = Violation {
            rule: "r".into(),
            description: "a human must look".into(),
            weight: 0.35,
            ..Violation::default()
        };
        Verdict {
            verdict_id: format!("ver_{}", self.verdicts),
            run_id: "run_1".into(),
            tenant: "acme".into(),
            subject,
            subject_id: id.into(),
            decision,
            violations: if decision == Decision::Allow {
                vec![]
            } else {
                vec![rule.clone(), rule]
            },
            policy_revision: REVISION.into(),
            digest: digest.into(),
            steps,
            decided_at: Timestamp(self.verdicts),
            ..Verdict::default()
        }
    }

    /// The gate's verdict about a plan: static steps are signed when allowed.
    pub(super) fn plan_verdict_of(&mut self, plan: &Plan, decision: Decision) -> Verdict {
        let steps = plan.steps.iter().map(|s| StepVerdict {
            step_id: s.step_id.clone(),
            decision,
            digest: digest::action(&s.tool, &s.operation, &s.arguments).unwrap_or_default(),
            signature: if decision == Decision::Allow && !s.arguments.contains("${steps.") {
                "5160".into()
            } else {
                String::new()
            },
            ..StepVerdict::default()
        });
        let steps = steps.collect();
        self.verdict(Subject::Plan, &plan.plan_id, &plan.digest, decision, steps)
    }

    pub(super) fn plan_verdict(&mut self, plan: &Plan, decision: Decision) {
        let verdict = self.plan_verdict_of(plan, decision);
        self.feed(Input::Verdict(Box::new(verdict)));
    }

    /// The gate's verdict about a proposal.
    pub(super) fn verdict_of(&mut self, proposal: &Proposal, decision: Decision) -> Verdict {
        let steps = proposal.steps.iter().map(|s| StepVerdict {
            step_id: s.step_id.clone(),
            decision,
            digest: s.digest.clone(),
            signature: if decision == Decision::Allow {
                "5160".into()
            } else {
                String::new()
            },
            ..StepVerdict::default()
        });
        let steps = steps.collect();
        let mut verdict = self.verdict(
            proposal.subject,
            &proposal.subject_id,
            &proposal.subject_digest,
            decision,
            steps,
        );
        verdict.approval_id = proposal.approval.as_ref().map(|a| a.approval_id.clone());
        verdict
    }

    /// Answers the last proposal.
    pub(super) fn judge(&mut self, decision: Decision) {
        let proposal = self.proposals.last().expect("a proposal was made").clone();
        let verdict = self.verdict_of(&proposal, decision);
        self.feed(Input::Verdict(Box::new(verdict)));
    }

    /// Answers the last call of a step.
    pub(super) fn answer(&mut self, step_id: &str, status: OutcomeStatus, result: &str) {
        let call = self
            .calls
            .iter()
            .rfind(|c| c.step_id == step_id)
            .expect("the step was called")
            .clone();
        let outcome = outcome(&call, status, result);
        self.feed(Input::Outcome(Box::new(outcome)));
    }

    pub(super) fn fail(&mut self, step_id: &str, retryable: bool) {
        let call = self
            .calls
            .iter()
            .rfind(|c| c.step_id == step_id)
            .expect("the step was called")
            .clone();
        let outcome = failure(&call, OutcomeStatus::Failed, "TOOL_FAILED", retryable);
        self.feed(Input::Outcome(Box::new(outcome)));
    }

    /// Answers what waits, as it was shown.
    pub(super) fn approval(&self, decision: ApprovalDecision) -> Approval {
        let waiting = self.run().waiting.first().expect("something waits").clone();
        Approval {
            approval_id: format!("apr_{}", self.fed.len()),
            run_id: "run_1".into(),
            tenant: "acme".into(),
            subject_id: waiting.subject_id,
            decision,
            digest: waiting.digest,
            policy_revision: waiting.policy_revision,
            approver: "ada".into(),
            comment: "as discussed".into(),
            changes_requested: false,
            expires_at: None,
            decided_at: self.now,
        }
    }

    pub(super) fn approve(&mut self, approval: Approval) {
        self.feed(Input::Approval(Box::new(approval)));
    }
}

pub(super) fn outcome(call: &Call, status: OutcomeStatus, result: &str) -> Outcome {
    Outcome {
        call_id: call.call_id.clone(),
        run_id: call.run_id.clone(),
        tenant: call.tenant.clone(),
        step_id: call.step_id.clone(),
        kind: call.kind,
        attempt: call.attempt,
        tool: call.tool.clone(),
        operation: call.operation.clone(),
        status,
        result: result.into(),
        idempotency_key: call.idempotency_key.clone(),
        digest: call.digest.clone(),
        cost_usd: Usd(250_000),
        ..Outcome::default()
    }
}

pub(super) fn failure(call: &Call, status: OutcomeStatus, code: &str, retryable: bool) -> Outcome {
    let fault = FaultInfo {
        code: code.into(),
        detail: format!("{} did not work", call.step_id),
        retryable,
    };
    Outcome {
        fault: Some(fault),
        ..outcome(call, status, "")
    }
}

/// A step of tool `http`, with a second attempt, named after what it needs.
pub(super) fn step(id: &str, needs: &[&str]) -> Step {
    Step {
        step_id: id.into(),
        tool: "http".into(),
        operation: "request".into(),
        arguments: format!(r#"{{"of":"{id}"}}"#),
        needs: needs.iter().map(|n| (*n).to_owned()).collect(),
        retry: Retry {
            attempts_max: 3,
            backoff_ms: 1000,
            backoff_ms_max: 1500,
        },
        timeout_ms: 5000,
        ..Step::default()
    }
}

/// The same with a way back that refers to its own result.
pub(super) fn undoable(id: &str, needs: &[&str]) -> Step {
    let undo = Compensation {
        tool: "terraform".into(),
        operation: "destroy".into(),
        arguments: format!(r#"{{"id":"${{steps.{id}.result.id}}"}}"#),
    };
    Step {
        compensation: Some(undo),
        ..step(id, needs)
    }
}

pub(super) fn plan(steps: Vec<Step>) -> Plan {
    Plan {
        plan_id: "plan_1".into(),
        run_id: "run_1".into(),
        tenant: "acme".into(),
        actor: "bob".into(),
        goal: "roll out".into(),
        idempotency_key: "k".into(),
        capsule: Some("rollout@1".into()),
        digest: digest::plan("run_1", &steps).unwrap(),
        steps,
        ..Plan::default()
    }
}
