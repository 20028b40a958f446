//! Constitutions: signed documents that stand above every bundle. What they require is judged here without Rego, nothing waives it,
//! and their precedence says which source of rules may lift what another says (`adjudicate`). Reading one is a pure function of the
//! record and of who may sign; it keeps no history: the topic does.

mod document;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use ed25519_dalek::{Signature, VerifyingKey};
use kernel::ConfigFault;
use kernel::members::EVERY;
use schemas::digest;
use schemas::records::{Constitution, Decision, Done, ProposedStep};

use super::answer::{Answer, Finding, Tallied};
use super::case::Case;
use super::sbom::Held;
pub use document::{AtMost, Document, Escalate, Oblige, Principle, Requirement, When};
use document::{BYTES_MAX, SOURCE, hash, signed_text};

/// Who may sign for whom: public keys by tenant. Those under `*` may sign for every tenant and for all of them at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signers(BTreeMap<String, Vec<[u8; 32]>>);

impl Signers {
    /// Reads YAML: lists of 64 hex digits by tenant.
    ///
    /// # Errors
    /// Every problem, with its path.
    pub fn parse(text: &str) -> Result<Self, Vec<ConfigFault>> {
        let read: BTreeMap<String, Vec<String>> = serde_yaml_ng::from_str(text).map_err(|e| {
            vec![ConfigFault::new(
                "(file)",
                format!("not lists of public keys by tenant: {e}"),
            )]
        })?;
        let mut signers = BTreeMap::new();
        let mut faults = Vec::new();
        for (tenant, keys) in read {
            for (n, text) in keys.iter().enumerate() {
                let bytes = hex::decode(text.trim()).ok().and_then(|b| <[u8; 32]>::try_from(b).ok());
                match bytes.filter(|b| VerifyingKey::from_bytes(b).is_ok()) {
                    Some(key) => signers.entry(tenant.clone()).or_insert_with(Vec::new).push(key),
                    None => faults.push(ConfigFault::new(
                        format!("{tenant}[{n}]"),
                        "is no Ed25519 public key of 64 hex digits".to_owned(),
                    )),
                }
            }
        }
        if faults.is_empty() {
            Ok(Self(signers))
        } else {
            Err(faults)
        }
    }

    fn may_sign(&self, tenant: &str, key: &[u8; 32]) -> bool {
        let held = |name: &str| self.0.get(name).is_some_and(|keys| keys.contains(key));
        held(EVERY) || held(tenant)
    }
}

/// A constitution that was read and found good.
#[derive(Clone, Debug, PartialEq)]
pub struct InForce {
    /// What it says.
    pub document: Document,
    /// SHA-256 of its canonical JSON.
    pub hash: String,
    /// Who signed it: 64 hex digits.
    pub signer: String,
}

/// Reads a record: unsigned, altered, signed by one who may not, or over before it was published, it is refused.
///
/// # Errors
/// The reason, naming the field.
pub fn read(record: &Constitution, signers: &Signers) -> Result<InForce, String> {
    if record.document.len() > BYTES_MAX {
        return Err(format!(
            "document: {} bytes; at most {BYTES_MAX}",
            record.document.len()
        ));
    }
    if digest::canonical(&record.document)? != record.document {
        return Err("document: is not canonical JSON".to_owned());
    }
    let own = hash(&record.document);
    if own != record.hash {
        return Err(format!("hash: it says {}, the document gives {own}", record.hash));
    }
    let document: Document = serde_json::from_str(&record.document).map_err(|e| format!("document: {e}"))?;
    if let Some(fault) = document.check().first() {
        return Err(format!("document: {fault}"));
    }
    if (document.tenant.as_str(), document.version) != (record.tenant.as_str(), record.version) {
        return Err("tenant, version: are not the document's".to_owned());
    }
    let key = hex::decode(&record.signer)
        .ok()
        .and_then(|b| <[u8; 32]>::try_from(b).ok());
    let key = key.ok_or_else(|| "signer: it is not signed (64 hex digits)".to_owned())?;
    let signature = hex::decode(&record.signature).unwrap_or_default();
    let verified = VerifyingKey::from_bytes(&key).is_ok_and(|public| {
        Signature::from_slice(&signature).is_ok_and(|s| public.verify_strict(&signed_text(&own), &s).is_ok())
    });
    if !verified {
        return Err("signature: is not the signer's over this document".to_owned());
    }
    if !signers.may_sign(&document.tenant, &key) {
        let tenant = &document.tenant;
        return Err(format!(
            "signer: {} may not sign for {tenant}: constitution_signers_file does not name it",
            record.signer
        ));
    }
    if document.expires_at.is_some_and(|end| end <= record.published_at) {
        return Err("document.expires_at: it was over before it was published".to_owned());
    }
    Ok(InForce {
        document,
        hash: own,
        signer: record.signer.clone(),
    })
}

impl InForce {
    /// What it says about a case. One that is over denies everything.
    pub(super) fn answer(&self, case: &Case<'_>, sboms: &Held) -> Answer {
        let mut answer = Answer::default();
        if let Some(end) = self.document.expires_at.filter(|end| *end <= case.now) {
            let of = if self.document.tenant == EVERY {
                "all tenants"
            } else {
                &self.document.tenant
            };
            let detail = format!(
                "version {} of the constitution of {of} ended at {end}: nothing is allowed until a new one is published",
                self.document.version
            );
            let mut finding = Finding::own(Decision::Deny, "constitution.expired", detail, None);
            SOURCE.clone_into(&mut finding.violation.source);
            answer.findings.push(finding);
        }
        for requirement in &self.document.requirements {
            let rule = requirement.rule();
            let mut before = requirement
                .at_most
                .as_ref()
                .map_or(0, |most| self.before(requirement, most.within_s, case));
            for step in case.steps.iter().filter(|s| requirement.when.covers(s, case)) {
                answer.findings.extend(requirement.finding(&step.step_id, before));
                if requirement.at_most.is_some() {
                    before += 1;
                    let step_id = Some(step.step_id.clone());
                    answer.tallies.push(Tallied {
                        name: rule.clone(),
                        step_id,
                    });
                }
                let demand = requirement.oblige.as_ref().and_then(|o| o.sbom.as_ref());
                for fault in demand
                    .into_iter()
                    .flat_map(|d| d.faults(&step.tool, case.capsule, sboms))
                {
                    let detail = format!("{}: {fault}", requirement.text);
                    let mut finding = Finding::own(Decision::Deny, &rule, detail, Some(&step.step_id));
                    SOURCE.clone_into(&mut finding.violation.source);
                    answer.findings.push(finding);
                }
                let duties = requirement.oblige.as_ref();
                let duties = duties.map(|o| o.obligations(&rule, Some(&step.step_id)));
                answer.obligations.extend(duties.unwrap_or_default());
            }
        }
        answer
    }

    /// How many steps that a requirement is about were allowed in the tenant within a time, those done in this run among them.
    fn before(&self, requirement: &Requirement, within_s: i64, case: &Case<'_>) -> i64 {
        let ages = case.tallies.get(requirement.rule().as_str());
        let others = ages.into_iter().flatten().filter(|age| **age < within_s).count();
        let recent = |d: &&Done| case.now.micros_since(d.finished_at) / 1_000_000 < within_s;
        let own = case.done.iter().filter(recent).filter(|d| {
            let step = ProposedStep {
                tool: d.tool.clone(),
                operation: d.operation.clone(),
                ..ProposedStep::default()
            };
            requirement.when.covers(&step, case)
        });
        i64::try_from(others + own.count()).unwrap_or(i64::MAX)
    }

    /// What policies are told of it.
    pub(super) fn shown(&self) -> serde_json::Value {
        let d = &self.document;
        let principles: Vec<_> = d.principles.iter().map(|p| p.id.as_str()).collect();
        let requirements: Vec<_> = d.requirements.iter().map(|r| r.id.as_str()).collect();
        serde_json::json!({"tenant": d.tenant, "version": d.version, "hash": self.hash, "principles": principles, "requirements": requirements})
    }
}

/// What is said where the only constitutions there are cannot be trusted.
pub(super) fn untrusted(tenant: &str, why: &str) -> Finding {
    let of = if tenant == EVERY { "all tenants" } else { tenant };
    let detail = format!(
        "the constitution of {of} cannot be trusted, so nothing is allowed: {why}. Publish one that is signed by who may, or mend the file of signers and restart"
    );
    let mut finding = Finding::own(Decision::Deny, "constitution.untrusted", detail, None);
    SOURCE.clone_into(&mut finding.violation.source);
    finding
}
