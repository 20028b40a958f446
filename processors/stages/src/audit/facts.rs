//! What an entry says of a record without its body.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kernel::{Fault, FaultCode};
use schemas::records::{
    Approval, Call, Constitution, Control, Delegation, Member, Outcome, Policy, Receipt, Request, Sbom, Strike, Verdict,
};
use schemas::{Record, digest};
use serde::Serialize;

use super::{Input, Seen};

/// The open part of an entry, and the text of its body.
pub(super) struct Facts {
    pub(super) record: &'static str,
    pub(super) tenant: String,
    pub(super) run_id: String,
    pub(super) subject: String,
    pub(super) fact: String,
    /// The record as canonical JSON.
    pub(super) text: String,
}

/// The word an enum has on the wire.
fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

fn text<R: Record>(record: &R) -> Result<String, Fault> {
    let json = serde_json::to_string(record).map_err(|e| e.to_string());
    let canonical = json.and_then(|json| digest::canonical(&json));
    canonical.map_err(|e| Fault::new(FaultCode::RecordInvalid, format!("{} as JSON: {e}", R::NAME)))
}

/// The tenant a record is of; none when it is of all.
fn one_tenant(name: &str) -> &str {
    if name == kernel::members::EVERY { "" } else { name }
}

/// Of bytes that are no record of their topic.
fn unreadable(bytes: &[u8], fault: &Fault) -> Facts {
    let code = fault.code.as_str();
    Facts {
        record: "Unreadable",
        tenant: String::new(),
        run_id: String::new(),
        subject: super::digest_of(bytes),
        fact: code.to_owned(),
        // In canonical order.
        text: serde_json::json!({"bytes": STANDARD.encode(bytes), "code": code, "detail": fault.detail}).to_string(),
    }
}

pub(super) fn of(seen: &Seen) -> Result<Facts, Fault> {
    let input = match seen {
        Seen::Read(input) => input,
        Seen::Unreadable(bytes, fault) => return Ok(unreadable(bytes, fault)),
    };
    let facts = |record, (tenant, run_id): (&str, &str), subject: String, fact, text| Facts {
        record,
        tenant: tenant.to_owned(),
        run_id: run_id.to_owned(),
        subject,
        fact,
        text,
    };
    Ok(match input {
        Input::Request(r) => {
            let run = digest::run_id(&r.tenant, &r.idempotency_key);
            let of = (r.tenant.as_str(), run.as_str());
            facts(
                Request::NAME,
                of,
                r.idempotency_key.clone(),
                String::new(),
                text(r.as_ref())?,
            )
        }
        Input::Verdict(v) => {
            let of = (v.tenant.as_str(), v.run_id.as_str());
            facts(
                Verdict::NAME,
                of,
                v.verdict_id.clone(),
                word(&v.decision),
                text(v.as_ref())?,
            )
        }
        Input::Approval(a) => {
            let of = (a.tenant.as_str(), a.run_id.as_str());
            facts(
                Approval::NAME,
                of,
                a.approval_id.clone(),
                word(&a.decision),
                text(a.as_ref())?,
            )
        }
        Input::Delegation(d) => {
            let of = (d.tenant.as_str(), d.run_id.as_str());
            let id = d.delegation_id.clone();
            facts(Delegation::NAME, of, id, "DELEGATE".to_owned(), text(d.as_ref())?)
        }
        Input::Receipt(r) => {
            let of = (r.tenant.as_str(), r.run_id.as_str());
            facts(
                Receipt::NAME,
                of,
                r.answer_id.clone(),
                r.code.clone(),
                text(r.as_ref())?,
            )
        }
        Input::Member(_) | Input::Policy(_) | Input::Constitution(_) | Input::Sbom(_) | Input::Strike(_) => {
            return standing(input);
        }
        Input::Control(c) => {
            let tenant = if c.scope == schemas::records::Scope::Tenant {
                c.target.as_str()
            } else {
                ""
            };
            let run = if c.scope == schemas::records::Scope::Run {
                c.target.as_str()
            } else {
                ""
            };
            let subject = format!("{}:{}", word(&c.scope), c.target);
            facts(
                Control::NAME,
                (tenant, run),
                subject,
                word(&c.action),
                text(c.as_ref())?,
            )
        }
        Input::Call(c) => {
            let of = (c.tenant.as_str(), c.run_id.as_str());
            facts(Call::NAME, of, c.call_id.clone(), String::new(), text(c.as_ref())?)
        }
        Input::Outcome(o) => {
            let of = (o.tenant.as_str(), o.run_id.as_str());
            facts(Outcome::NAME, of, o.call_id.clone(), word(&o.status), text(o.as_ref())?)
        }
    })
}

/// Of what stands until it is replaced: nobody's run, perhaps of all tenants.
fn standing(input: &Input) -> Result<Facts, Fault> {
    let facts = |record, tenant: &str, subject: &str, fact: &str, text| Facts {
        record,
        tenant: one_tenant(tenant).to_owned(),
        run_id: String::new(),
        subject: subject.to_owned(),
        fact: fact.to_owned(),
        text,
    };
    Ok(match input {
        Input::Member(m) => {
            let fact = if m.roles.is_empty() { "REVOKED" } else { "GRANTED" };
            facts(Member::NAME, &m.tenant, &m.person, fact, text(m.as_ref())?)
        }
        Input::Policy(p) => {
            let fact = if p.files.is_empty() { "WITHDRAWN" } else { "PUBLISHED" };
            facts(Policy::NAME, &p.tenant, &p.revision, fact, text(p.as_ref())?)
        }
        Input::Constitution(c) => {
            let fact = format!("VERSION {}", c.version);
            facts(Constitution::NAME, &c.tenant, &c.hash, &fact, text(c.as_ref())?)
        }
        Input::Sbom(s) => {
            let fact = if s.withdrawn { "WITHDRAWN" } else { "PUBLISHED" };
            facts(Sbom::NAME, kernel::members::EVERY, &s.subject, fact, text(s.as_ref())?)
        }
        Input::Strike(s) => {
            let fact = if s.pardoned { "PARDONED" } else { "STRUCK" };
            facts(Strike::NAME, &s.tenant, &s.strike_id, fact, text(s.as_ref())?)
        }
        _ => return Err(Fault::new(FaultCode::Internal, "not a standing record")),
    })
}
