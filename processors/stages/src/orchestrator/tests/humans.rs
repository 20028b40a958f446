//! Who may answer, how many have to, what is handed on, and the receipt for each word.

use super::*;

fn plan_of_two() -> Plan {
    plan(vec![step("a", &[]), step("b", &["a"])])
}

fn ask(rule: &str) -> Ask {
    Ask {
        rule: rule.into(),
        ..Ask::default()
    }
}

/// A plan that waits for these.
fn waiting(asks: Vec<Ask>) -> Driver {
    let mut d = Driver::new();
    d.feed(Input::Plan(Box::new(plan_of_two())));
    let mut verdict = d.plan_verdict_of(&plan_of_two(), Decision::Escalate);
    verdict.asks = asks;
    d.feed(Input::Verdict(Box::new(verdict)));
    d
}

impl Driver {
    fn says(&mut self, who: &str, decision: ApprovalDecision) -> Receipt {
        let approval = Approval {
            approver: who.into(),
            ..self.approval(decision)
        };
        self.approve(approval);
        self.receipts.last().expect("a receipt for every word").clone()
    }

    fn approves(&mut self, who: &str) -> String {
        self.says(who, ApprovalDecision::Approve).code
    }

    fn hands_on(&mut self, from: &str, to: &str) -> String {
        let waiting = self.run().waiting[0].clone();
        self.feed(Input::Delegation(Box::new(Delegation {
            delegation_id: format!("del_{}", self.fed.len()),
            run_id: "run_1".into(),
            tenant: "acme".into(),
            subject_id: waiting.subject_id,
            digest: waiting.digest,
            from: from.into(),
            to: to.into(),
            decided_at: self.now,
            ..Delegation::default()
        })));
        self.receipts.last().expect("a receipt for every word").code.clone()
    }

    fn roles(&mut self, person: &str, roles: &[&str]) {
        self.controls.apply_member(Member {
            tenant: "acme".into(),
            person: person.into(),
            roles: roles.iter().map(|r| (*r).to_owned()).collect(),
            ..Member::default()
        });
    }
}

#[test]
fn a_quorum_counts_different_people_who_may_and_not_the_actor() {
    let two = Ask {
        quorum: 2,
        ..ask("four_eyes")
    };
    let mut d = waiting(vec![two]);
    let actor = plan_of_two().actor;
    assert_eq!(d.approves(&actor), "approval.self");
    assert_eq!(d.approves("grace"), "approval.accepted");
    assert_eq!(
        d.receipts.last().unwrap().detail,
        "four_eyes needs 2 approvals, 1 count"
    );
    assert_eq!(d.run().waiting[0].given[0].approver, "grace");
    assert_eq!(d.approves("grace"), "approval.twice");
    assert_eq!((d.proposals.len(), d.run().waiting[0].given.len()), (0, 1));
    assert_eq!(d.approves("lin"), "approval.accepted");
    let proposal = d.proposals[0].clone();
    let who: Vec<_> = proposal.approvals.iter().map(|a| a.approver.as_str()).collect();
    assert_eq!(
        (who, proposal.approval.unwrap().approver.as_str()),
        (vec!["grace", "lin"], "grace")
    );
    assert_eq!(proposal.approvals[0].rules, ["four_eyes"]);
    assert_eq!(proposal.approvals[0].run_id, "run_1");
    let counted: Vec<_> = d.receipts.iter().map(|r| r.counted).collect();
    assert_eq!(counted, [false, true, false, true]);
}

/// Of an approval that ran out before the others came, nothing is left that would stand in its own way.
#[test]
fn an_approval_that_ran_out_is_given_again() {
    let two = Ask {
        quorum: 2,
        ..ask("four_eyes")
    };
    let mut d = waiting(vec![two]);
    let short = Approval {
        approver: "grace".into(),
        expires_at: Some(d.now.plus_ms(1_000)),
        ..d.approval(ApprovalDecision::Approve)
    };
    d.approve(short);
    d.pass(5_000);
    assert_eq!(d.approves("lin"), "approval.accepted");
    assert!(d.proposals.is_empty(), "one of the two has run out");
    assert_eq!(d.approves("grace"), "approval.accepted");
    let who: Vec<_> = d.proposals[0].approvals.iter().map(|a| a.approver.as_str()).collect();
    assert_eq!(who, ["lin", "grace"]);
}

#[test]
fn roles_decide_and_each_rule_wants_its_own() {
    let release = Ask {
        roles: vec!["release".into()],
        ..ask("release_rule")
    };
    let named = Ask {
        approvers: vec!["lin".into()],
        ..ask("named_rule")
    };
    let mut d = waiting(vec![release, named]);
    assert_eq!(d.approves("grace"), "approval.role");
    d.roles("grace", &["release"]);
    assert_eq!(d.approves("grace"), "approval.accepted");
    assert!(d.proposals.is_empty(), "lin is still to answer");
    assert_eq!(d.approves("lin"), "approval.accepted");
    assert_eq!(d.proposals.len(), 1);

    let named = Ask {
        approvers: vec!["lin".into()],
        ..ask("named_rule")
    };
    let mut d = waiting(vec![named]);
    let refused = d.says("grace", ApprovalDecision::Approve);
    assert_eq!((refused.code.as_str(), refused.counted), ("approval.approver", false));
    assert_eq!(refused.detail, "named_rule needs one of lin, not grace");
    assert_eq!(
        d.says("grace", ApprovalDecision::Deny).code,
        "approval.approver",
        "nor deny"
    );
    let actor = plan_of_two().actor;
    assert!(
        d.says(&actor, ApprovalDecision::Deny).counted,
        "who asked takes it back"
    );
    assert_eq!(d.run().status, RunStatus::Denied);
}

#[test]
fn a_decision_is_handed_on_by_who_may_and_counts_once() {
    let two = Ask {
        approvers: vec!["grace".into(), "joan".into()],
        quorum: 2,
        ..ask("two_of")
    };
    let mut d = waiting(vec![two]);
    let actor = plan_of_two().actor;
    assert_eq!(d.hands_on("lin", "max"), "approval.approver");
    assert_eq!(d.hands_on("grace", &actor), "approval.self");
    assert_eq!(d.hands_on("grace", "grace"), "approval.incomplete");
    assert_eq!(d.hands_on("grace", "lin"), "approval.delegated");
    assert_eq!(d.hands_on("lin", "max"), "approval.delegated", "and further");
    assert_eq!(d.event("approval.delegated").payload["open"], "lin handed it on to max");
    assert_eq!(d.approves("max"), "approval.accepted");
    assert_eq!(d.run().waiting[0].given[0].on_behalf_of.as_deref(), Some("grace"));
    assert_eq!(d.approves("grace"), "approval.accepted");
    assert!(d.proposals.is_empty(), "grace has spoken through max");
    assert_eq!(d.approves("joan"), "approval.accepted");
    assert_eq!(d.proposals.len(), 1);
}

#[test]
fn changes_asked_for_end_the_run_with_the_comment() {
    let mut d = waiting(vec![ask("r")]);
    let answer = Approval {
        changes_requested: true,
        comment: "two replicas will do".into(),
        approver: "grace".into(),
        ..d.approval(ApprovalDecision::Deny)
    };
    d.approve(answer);
    let fault = d.run().fault.clone().unwrap();
    assert_eq!(
        (d.run().status, fault.code.as_str()),
        (RunStatus::Denied, "CHANGES_REQUESTED")
    );
    assert_eq!(fault.detail, "grace asks for changes: two replicas will do");
}

#[test]
fn silence_brings_deputies_and_then_the_end() {
    let chain = Ask {
        approvers: vec!["lin".into()],
        within_s: 90,
        deputies: vec![Deputy {
            after_s: 60,
            roles: vec!["ops".into()],
            ..Deputy::default()
        }],
        ..ask("soon")
    };
    let mut d = waiting(vec![chain.clone()]);
    d.roles("max", &["ops"]);
    assert_eq!(d.approves("max"), "approval.role".replace("role", "approver"));
    d.pass(60_000);
    assert_eq!(d.event("approval.escalated").payload["approvers"], "ops");
    assert_eq!(d.approves("max"), "approval.accepted");
    assert_eq!((d.proposals.len(), d.timers.len()), (1, 0));

    let mut d = waiting(vec![chain]);
    assert!(d.run().waiting[0].until.is_some());
    d.pass(90_000);
    assert_eq!(d.run().reason, "nobody answered within 90 s");
    assert_eq!(
        (d.run().status, d.timers.keys().next().unwrap().as_str()),
        (RunStatus::Denied, "forget")
    );
}

#[test]
fn a_word_about_another_run_is_refused_with_a_receipt() {
    let mut d = waiting(vec![ask("r")]);
    let replayed = Approval {
        run_id: "run_2".into(),
        ..d.approval(ApprovalDecision::Approve)
    };
    d.approve(replayed);
    let receipt = d.receipts[0].clone();
    assert_eq!(
        (receipt.code.as_str(), receipt.run_id.as_str(), receipt.counted),
        ("approval.other_run", "run_1", false)
    );
    assert_eq!(d.event("approval.refused").payload["code"], "approval.other_run");
    assert!(d.proposals.is_empty());
}

/// Judged a while ago is judged again: after a retry's wait, and before a later step of the plan.
#[test]
fn what_was_judged_a_while_ago_is_judged_again_with_the_approvals_it_rested_on() {
    let mut d = waiting(vec![ask("r")]);
    d.stage = Orchestrator::new(Config::default());
    assert_eq!(d.approves("grace"), "approval.accepted");
    d.judge(Decision::Allow);
    assert_eq!((d.called(), d.proposals.len()), (vec!["a#1".to_owned()], 1));
    d.pass(5_000);
    d.answer("a", OutcomeStatus::Succeeded, "");
    let again = d.proposals.last().unwrap().clone();
    assert_eq!((again.subject_id.as_str(), d.called().len()), ("b", 1));
    assert_eq!(again.approvals[0].approver, "grace");
    assert_eq!(again.permit.unwrap().signature, "5160");
    let done: Vec<_> = again
        .done
        .iter()
        .map(|d| (d.step_id.as_str(), d.tool.as_str()))
        .collect();
    assert_eq!(done, [("a", "http")]);
    d.judge(Decision::Allow);
    assert_eq!(d.called(), ["a#1", "b#1"]);
    d.fail("b", true);
    d.pass(5_000);
    assert_eq!(d.proposals.len(), 3, "the retry is judged again too");
    d.judge(Decision::Deny);
    assert_eq!((d.called().len(), d.run().status), (2, RunStatus::Denied));
}
