//! Conflicts between sources of rules: what one would lift of another's. The precedence that a constitution declares decides, and
//! every decision is noted in the verdict.

use std::sync::Arc;

use schemas::records::{Adjudication, Violation};

use super::answer::{Finding, Source, Waiver};
use super::constitution::InForce;

/// Takes away the findings that a stronger source waives, and notes every conflict.
pub(super) fn apply(
    findings: &mut Vec<Finding>,
    waivers: &[(Source, Waiver)],
    over: &[Arc<InForce>],
) -> Vec<Adjudication> {
    let mut noted = Vec::new();
    if waivers.is_empty() {
        return noted;
    }
    findings.retain(|finding| {
        let violation = &finding.violation;
        let about = |w: &&(Source, Waiver)| {
            // A waiver for one step lifts nothing that is said about the whole.
            w.1.rule == violation.rule && (w.1.step_id.is_none() || w.1.step_id == violation.step_id)
        };
        let mut stays = true;
        for (by, waiver) in waivers.iter().filter(about) {
            let (upheld, why) = decides(over, violation, finding.source, *by);
            stays &= upheld;
            noted.push(Adjudication {
                rule: violation.rule.clone(),
                source: violation.source.clone(),
                step_id: violation.step_id.clone(),
                waived_by: by.word().to_owned(),
                reason: waiver.reason.clone(),
                upheld,
                why,
            });
        }
        stays
    });
    noted
}

/// The violation a waiver is about, and what decides whether it stays.
pub(super) fn decides(
    over: &[std::sync::Arc<InForce>],
    violation: &Violation,
    source: Option<Source>,
    by: Source,
) -> (bool, String) {
    let Some(source) = source else {
        return (true, format!("nothing waives what the {} says", violation.source));
    };
    let Some(declared) = over.iter().find(|c| !c.document.precedence.is_empty()) else {
        return (
            true,
            "no constitution declares a precedence: nothing is waived".to_owned(),
        );
    };
    let order = &declared.document.precedence;
    let words: Vec<_> = order.iter().map(|s| s.word()).collect();
    let of = format!(
        "precedence {} of the constitution {} version {}",
        words.join(", "),
        declared.document.tenant,
        declared.document.version
    );
    let rank = |s: Source| order.iter().position(|o| *o == s);
    match (rank(by), rank(source)) {
        (Some(by), Some(of_rule)) if by < of_rule => (false, of),
        _ => (true, of),
    }
}
