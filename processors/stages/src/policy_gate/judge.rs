//! One judgement: the input document, and what a bundle's Rego and weighted rules say about it.

use std::sync::{Mutex, PoisonError};

use kernel::FaultCode;
use regorus::Value;
use schemas::digest;
use schemas::records::{Decision, ProposedStep, Subject};

use super::answer::{self, Answer, Finding, Source};
use super::bundle::{Bundle, DENY, OBLIGE, TALLY, WAIVE};
use super::case::{Arguments, Case};
use super::document::Form;
use super::rego::Evaluator;
use super::rules::{Text, WeightedRule};

/// The policies of one bundle, ready to judge.
pub(super) struct Judge {
    evaluator: Mutex<Evaluator>,
    rules: Vec<WeightedRule>,
    /// Where the bundle stands.
    source: Source,
    form: Form,
}

impl Judge {
    pub(super) fn new(bundle: Bundle, source: Source) -> Self {
        let evaluator = Evaluator::of(&bundle);
        Self {
            form: Form::new(evaluator.unasked()),
            evaluator: Mutex::new(evaluator),
            rules: bundle.rules,
            source,
        }
    }

    /// Another judge of the same bundle.
    pub(super) fn another(&self) -> Self {
        let evaluator = self.evaluator.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            form: Form::new(evaluator.unasked()),
            evaluator: Mutex::new(evaluator.another()),
            rules: self.rules.clone(),
            source: self.source,
        }
    }

    /// Everything that the bundle says about the case, in a fixed order. One that fails to answer speaks against it.
    pub(super) fn answer(&self, case: &Case<'_>) -> Answer {
        let matches = self.matches(case);
        let steps: Vec<_> = case.steps.iter().map(|s| s.step_id.as_str()).collect();
        let mut answer = self
            .rego(|whole| self.form.of(case, &matches, whole), &steps)
            .unwrap_or_else(|error| Answer {
                findings: vec![Finding::unanswered(&error)],
                ..Answer::default()
            });
        answer.findings.extend(matches);
        answer
    }

    /// The input document as the policies are given it.
    pub(super) fn document(&self, case: &Case<'_>) -> serde_json::Value {
        serde_json::to_value(self.form.of(case, &self.matches(case), true)).unwrap_or_default()
    }

    fn matches(&self, case: &Case<'_>) -> Vec<Finding> {
        let mut found = Vec::new();
        // Canonical text, so that an escape such as \u002d cannot hide a pattern.
        let text = |(s, read)| {
            let (text, step_id) = canonical_or_raw(s, read);
            (Text::of(text), step_id)
        };
        let texts: Vec<_> = case.steps.iter().zip(&case.arguments).map(text).collect();
        let goal = Text::of(case.goal);
        for rule in &self.rules {
            let decision = if rule.escalate {
                Decision::Escalate
            } else {
                Decision::Deny
            };
            let finding = |violation| Finding::of(decision, violation, self.source);
            // A human who approved the plan has seen the goal; asking again at every step would say nothing new.
            if !rule.escalate || case.subject == Subject::Plan {
                found.extend(rule.violation(case.tenant, &goal, None).map(finding));
            }
            for (text, step_id) in &texts {
                found.extend(rule.violation(case.tenant, text, Some(step_id)).map(finding));
            }
        }
        found
    }

    fn rego(&self, document: impl Fn(bool) -> Value, steps: &[&str]) -> Result<Answer, String> {
        let mut evaluator = self.evaluator.lock().unwrap_or_else(PoisonError::into_inner);
        let sets = evaluator.ask(document)?;
        drop(evaluator);
        let mut answer = Answer::default();
        for (entry, set) in &sets {
            let items = set.as_set().map_err(|_| format!("{entry} is not a set"))?.iter();
            let named = |error: String| format!("{entry}: {error}");
            for item in items {
                let decision = if *entry == DENY {
                    Decision::Deny
                } else {
                    Decision::Escalate
                };
                match *entry {
                    WAIVE => answer
                        .waivers
                        .push((self.source, answer::waiver(item, steps).map_err(named)?)),
                    OBLIGE => answer.obligations.push(answer::obligation(item, steps).map_err(named)?),
                    TALLY => answer.tallies.push(answer::tallied(item, steps).map_err(named)?),
                    _ => answer
                        .findings
                        .push(answer::finding(item, decision, self.source, steps).map_err(named)?),
                }
            }
        }
        Ok(answer)
    }
}

/// What the plan itself demands of a step.
pub(super) fn required(step: &ProposedStep) -> Finding {
    let detail = "the plan demands a human's approval for this step";
    Finding::own(
        Decision::Escalate,
        "step.approval_required",
        detail,
        Some(&step.step_id),
    )
    .asking()
}

/// Whether arguments are complete, or wait for the result of an earlier step.
pub(super) fn is_exact(arguments: &str) -> bool {
    !arguments.contains("${steps.")
}

/// Arguments in canonical form, where they have one, and the step's id.
fn canonical_or_raw<'a>(step: &'a ProposedStep, read: &'a Arguments) -> (&'a str, &'a str) {
    let text = read.canonical.as_deref().unwrap_or(&step.arguments);
    (text, &step.step_id)
}

/// Steps whose digest is not the digest of what they say, unless the gate itself `digested` them, or whose arguments are not a JSON object.
pub(super) fn digest_findings(steps: &mut [ProposedStep], arguments: &[Arguments], digested: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (step, read) in steps.iter_mut().zip(arguments) {
        let code = FaultCode::PermitInvalid.as_str();
        let deny = |detail: String| Finding::own(Decision::Deny, code, detail, Some(&step.step_id));
        let text = match &read.canonical {
            Ok(text) => text,
            Err(error) => {
                findings.push(deny(format!("arguments: {error}")));
                continue;
            }
        };
        if !read.value.is_object() {
            findings.push(deny("arguments are not a JSON object".into()));
            continue;
        }
        if digested {
            continue;
        }
        let own = digest::canonical_action(&step.tool, &step.operation, text);
        if own != step.digest {
            findings.push(deny(format!(
                "digest {} is not that of the arguments, {own}",
                step.digest
            )));
            step.digest = own;
        }
    }
    findings
}
