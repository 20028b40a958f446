//! What a constitution says: its form, what is wrong with one, and its signature.

use std::collections::BTreeSet;

use ed25519_dalek::{Signer, SigningKey};
use kernel::ConfigFault;
use kernel::tallies::KEPT_MAX;
use schemas::records::{Ask, Autonomy, Constitution, Decision, Deputy, Obligation, ProposedStep};
use schemas::{Timestamp, Usd, digest};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::answer::{Finding, Source, ask_faults, obligation_fault};
use super::super::case::Case;
use super::super::sbom::Demand;

/// What verdicts name as the source of its requirements.
pub(super) const SOURCE: &str = "constitution";
/// Largest document, bytes: it fits a Kafka record and an evening's reading.
pub(super) const BYTES_MAX: usize = 256 * 1024;
/// How long `soma.tallies` keeps what was counted, seconds.
const WITHIN_MAX_S: i64 = 168 * 3600;

/// A constitution as people write it, in YAML or JSON. Its hash is the SHA-256 of its canonical JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Tenant it is for; `*` for all.
    pub tenant: String,
    /// 1 for the first, one more than the last for every other.
    pub version: i64,
    /// In a few words.
    pub title: String,
    /// Hash of the version before; none for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Version whose content this one brings back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_of: Option<i64>,
    /// When it was written.
    pub issued_at: Timestamp,
    /// From when on everything is denied until a new version is published; none for no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// What it stands for, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub principles: Vec<Principle>,
    /// What it demands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requirements: Vec<Requirement>,
    /// Sources of rules, the strongest first: a rule may lift what a weaker source says. With none nothing is lifted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub precedence: Vec<Source>,
}

/// What a constitution stands for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principle {
    /// Name that requirements refer to.
    pub id: String,
    /// In a few words.
    pub title: String,
    /// In full.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
}

/// What a constitution demands of steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// The rule's name in verdicts, after `constitution.`.
    pub id: String,
    /// The principle it follows from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principle: Option<String>,
    /// What it demands, in a sentence a user can act on.
    pub text: String,
    /// The steps it is about; without it all.
    #[serde(default, skip_serializing_if = "When::is_all")]
    pub when: When,
    /// They are denied.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deny: bool,
    /// They are put to humans.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalate: Option<Escalate>,
    /// They are allowed only with this done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oblige: Option<Oblige>,
    /// Of them, so many may be allowed in a tenant within a time. One more is denied, or put to humans where `escalate` says whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<AtMost>,
}

/// How often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AtMost {
    /// How many steps, 1 or more.
    pub times: i64,
    /// Within the last so many seconds.
    pub within_s: i64,
}

/// Which steps. Every list is left out for all, or holds names, each whole or up to a final `*`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct When {
    /// Tools.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// Operations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<String>,
    /// Capsules the run is of, with or without `@version`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capsules: Vec<String>,
    /// How much the run was trusted with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autonomy: Option<Autonomy>,
    /// Regions the run's data must stay in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
    /// Classes of data, one of which the run works on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub data_classes: Vec<String>,
}

/// Whom to ask; with neither names nor roles, anyone but the actor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Escalate {
    /// Names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    /// Roles.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// How many; 1 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quorum: Option<i32>,
    /// Seconds within which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within_s: Option<i64>,
    /// Who else, later.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deputies: Vec<Deputy>,
}

/// What is to be done with an allow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Oblige {
    /// JSON pointers into the result that are taken out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub redact: Vec<String>,
    /// What the run may spend at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap_budget_usd: Option<Usd>,
    /// The call is gone through without its effect.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// What they are made of is looked at first, by the gate itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sbom: Option<Demand>,
}

impl When {
    fn is_all(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn covers(&self, step: &ProposedStep, case: &Case<'_>) -> bool {
        let any = |names: &[String], is: &str| names.is_empty() || names.iter().any(|n| matches(n, is));
        any(&self.tools, &step.tool)
            && any(&self.operations, &step.operation)
            && (self.capsules.is_empty()
                || case.capsule.is_some_and(|c| {
                    // `name@version`: one version may be named, or all of them.
                    any(&self.capsules, c) || any(&self.capsules, c.split('@').next().unwrap_or(c))
                }))
            && self.autonomy.is_none_or(|a| a == case.autonomy)
            && (self.regions.is_empty() || case.region.is_some_and(|r| any(&self.regions, r)))
            && (self.data_classes.is_empty() || case.data_classes.iter().any(|c| any(&self.data_classes, c)))
    }
}

fn matches(name: &str, is: &str) -> bool {
    match name.strip_suffix('*') {
        Some(beginning) => is.starts_with(beginning),
        None => name == is,
    }
}

impl Oblige {
    pub(super) fn obligations(&self, rule: &str, step_id: Option<&str>) -> Vec<Obligation> {
        let of = |kind: &str| Obligation {
            rule: rule.to_owned(),
            kind: kind.to_owned(),
            step_id: step_id.map(str::to_owned),
            ..Obligation::default()
        };
        let redact = Obligation {
            fields: self.redact.clone(),
            ..of(Obligation::REDACT)
        };
        let cap = |usd| Obligation {
            usd: Some(usd),
            step_id: None,
            ..of(Obligation::CAP_BUDGET)
        };
        let redact = (!self.redact.is_empty()).then_some(redact);
        let dry_run = self.dry_run.then(|| of(Obligation::DRY_RUN));
        redact
            .into_iter()
            .chain(self.cap_budget_usd.map(cap))
            .chain(dry_run)
            .collect()
    }
}

impl Document {
    /// Every problem at once, with its path.
    pub fn check(&self) -> Vec<ConfigFault> {
        let mut faults = Vec::new();
        let mut bad = |path: String, detail: &str| faults.push(ConfigFault::new(path, detail.to_owned()));
        if self.tenant.trim().is_empty() {
            bad("tenant".into(), "is empty; write a tenant's name, or * for all");
        }
        if self.title.trim().is_empty() {
            bad("title".into(), "is empty");
        }
        if self.version < 1 {
            bad("version".into(), "versions begin with 1");
        }
        if (self.version == 1) != self.previous.is_none() {
            bad(
                "previous".into(),
                "every version but the first names the hash of the one before",
            );
        }
        if self.expires_at.is_some_and(|end| end <= self.issued_at) {
            bad("expires_at".into(), "is not after issued_at");
        }
        let mut principles = BTreeSet::new();
        for (n, p) in self.principles.iter().enumerate() {
            if p.id.is_empty() || !principles.insert(p.id.as_str()) {
                bad(format!("principles[{n}].id"), "is empty or there twice");
            }
        }
        let mut ids = BTreeSet::new();
        for (n, r) in self.requirements.iter().enumerate() {
            if r.id.is_empty() || !ids.insert(r.id.as_str()) {
                bad(format!("requirements[{n}].id"), "is empty or there twice");
            }
            if r.principle.as_deref().is_some_and(|p| !principles.contains(p)) {
                bad(format!("requirements[{n}].principle"), "is none of `principles`");
            }
            if let Some(fault) = r.fault() {
                bad(format!("requirements[{n}]"), &fault);
            }
        }
        let sources: BTreeSet<_> = self.precedence.iter().collect();
        if sources.len() != self.precedence.len() || self.precedence.len() == 1 {
            bad(
                "precedence".into(),
                "names two or three of base, tenant and capsule, each once, the strongest first",
            );
        }
        faults
    }

    /// Its canonical JSON, and that text's SHA-256.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn canonical(&self) -> Result<(String, String), String> {
        let text = digest::canonical(&serde_json::to_string(self).map_err(|e| e.to_string())?)?;
        let hash = hash(&text);
        Ok((text, hash))
    }

    /// The document as a record, signed with an Ed25519 secret.
    ///
    /// # Errors
    /// Every problem of [`Document::check`], or it is too large.
    pub fn sign(&self, secret: [u8; 32]) -> Result<Constitution, Vec<ConfigFault>> {
        let faults = self.check();
        if !faults.is_empty() {
            return Err(faults);
        }
        let (document, hash) = self.canonical().map_err(|e| vec![ConfigFault::new("(file)", e)])?;
        if document.len() > BYTES_MAX {
            let detail = format!("{} bytes; at most {BYTES_MAX}", document.len());
            return Err(vec![ConfigFault::new("(file)", detail)]);
        }
        let key = SigningKey::from_bytes(&secret);
        Ok(Constitution {
            tenant: self.tenant.clone(),
            version: self.version,
            signature: hex::encode(key.sign(&signed_text(&hash)).to_bytes()),
            signer: hex::encode(key.verifying_key().to_bytes()),
            document,
            hash,
            ..Constitution::default()
        })
    }
}

impl Requirement {
    fn fault(&self) -> Option<String> {
        if self.text.trim().is_empty() {
            return Some("`text` is empty".to_owned());
        }
        if self.deny && (self.escalate.is_some() || self.oblige.is_some() || self.at_most.is_some()) {
            return Some("what is denied is neither put to humans nor bound to anything nor counted".to_owned());
        }
        if let Some(fault) = self.at_most.as_ref().and_then(AtMost::fault) {
            return Some(format!("at_most: {fault}"));
        }
        if let Some(e) = &self.escalate
            && let Some(fault) = ask_faults(e.quorum.unwrap_or(1), e.within_s.unwrap_or(0), &e.deputies)
        {
            return Some(format!("escalate: {fault}"));
        }
        let oblige = self.oblige.as_ref();
        if oblige.is_some_and(|o| *o == Oblige::default()) {
            return Some("oblige: says nothing; give redact, cap_budget_usd, dry_run or sbom".to_owned());
        }
        if let Some(fault) = oblige.and_then(|o| o.sbom.as_ref()).and_then(Demand::fault) {
            return Some(format!("oblige.sbom: {fault}"));
        }
        let duties = oblige.map(|o| o.obligations(&self.id, None)).unwrap_or_default();
        duties
            .iter()
            .find_map(obligation_fault)
            .map(|fault| format!("oblige: {fault}"))
    }

    pub(super) fn rule(&self) -> String {
        format!("{SOURCE}.{}", self.id)
    }

    /// What it says of a step it is about, of which `before` were allowed within its time.
    pub(super) fn finding(&self, step_id: &str, before: i64) -> Option<Finding> {
        let decision = match (self.deny, &self.escalate, &self.at_most) {
            (_, _, Some(most)) if before < most.times => return None,
            (true, ..) | (false, None, Some(_)) => Decision::Deny,
            (false, Some(_), _) => Decision::Escalate,
            (false, None, None) => return None,
        };
        let text = match &self.at_most {
            Some(most) => format!(
                "{} ({before} in the last {} s, at most {})",
                self.text, most.within_s, most.times
            ),
            None => self.text.clone(),
        };
        let mut finding = Finding::own(decision, &self.rule(), text, Some(step_id)).asking();
        SOURCE.clone_into(&mut finding.violation.source);
        if let (Some(ask), Some(e)) = (&mut finding.ask, &self.escalate) {
            *ask = Ask {
                approvers: e.approvers.clone(),
                roles: e.roles.clone(),
                quorum: e.quorum.unwrap_or(1),
                within_s: e.within_s.unwrap_or(0),
                deputies: e.deputies.clone(),
                ..ask.clone()
            };
        }
        Some(finding)
    }
}

impl AtMost {
    fn fault(&self) -> Option<String> {
        let kept = i64::try_from(KEPT_MAX / 2).unwrap_or(i64::MAX);
        if !(1..=kept).contains(&self.times) {
            return Some(format!("times {} is not from 1 to {kept}", self.times));
        }
        (!(1..=WITHIN_MAX_S).contains(&self.within_s)).then(|| {
            format!(
                "within_s {} is not from 1 to {WITHIN_MAX_S}, the days soma.tallies keeps",
                self.within_s
            )
        })
    }
}

/// SHA-256 of a document's text, 64 hex digits: what `sha256sum` gives for it.
pub(super) fn hash(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// The text a signature covers.
pub(super) fn signed_text(hash: &str) -> Vec<u8> {
    digest::sha256_hex(&["soma constitution", hash]).into_bytes()
}
