//! Evidence of one run: its entries, what they say, and the way from each to a signed checkpoint. Anyone can check it offline.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemas::records::{AuditEntry, Checkpoint};
use schemas::{Record, Schema, parse_schema};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::merkle::{self, Hash};
use super::{checkpoint, digest_of};

/// Evidence of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// Format of this file.
    pub version: u32,
    /// Run.
    pub run_id: String,
    /// Avro schema of the entries.
    pub schema: String,
    /// Its entries, in the order of their chains.
    pub entries: Vec<Proven>,
    /// Checkpoints that cover them.
    pub checkpoints: Vec<Checkpoint>,
}

/// An entry and its proof.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proven {
    /// The entry.
    pub entry: AuditEntry,
    /// The entry as it was chained: Avro binary, base64.
    pub avro: String,
    /// What its body says, canonical JSON; `null` when the tenant's key is gone or was not given.
    pub says: Option<String>,
    /// Number of the checkpoint of its chain that covers it; 0 when none does yet.
    pub checkpoint: i64,
    /// Hashes beside the way from the entry to the checkpoint's Merkle root (RFC 6962), 64 hex digits each.
    pub proof: Vec<String>,
}

/// What a check of evidence found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Entries proven to be in a signed checkpoint.
    pub proven: usize,
    /// Entries no checkpoint covers yet.
    pub unsealed: usize,
    /// Entries whose words are gone or were not given.
    pub silent: usize,
    /// Keys that signed.
    pub keys: Vec<String>,
}

fn hash(text: &str) -> Result<Hash, String> {
    let bytes = hex::decode(text).map_err(|e| format!("{text} is not hex: {e}"))?;
    bytes.try_into().map_err(|_| format!("{text} is not a SHA-256"))
}

impl Evidence {
    /// Checks every entry against its checkpoint. Who signed must be compared by the reader: `keys` says who did.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<Checked, String> {
        let mut checked = Checked::default();
        let schema = parse_schema(&self.schema).map_err(|e| format!("schema: {e}"))?;
        for c in &self.checkpoints {
            checkpoint::verify(c).map_err(|why| format!("checkpoint {} of chain {}: {why}", c.number, c.chain))?;
            if !checked.keys.contains(&c.public_key) {
                checked.keys.push(c.public_key.clone());
            }
        }
        for proven in &self.entries {
            let e = &proven.entry;
            let wrong = |why: String| format!("entry {} of chain {}: {why}", e.seq, e.chain);
            self.check_entry(&schema, proven).map_err(wrong)?;
            match proven.checkpoint {
                0 => checked.unsealed += 1,
                _ => checked.proven += 1,
            }
            checked.silent += usize::from(proven.says.is_none());
        }
        Ok(checked)
    }

    fn check_entry(&self, schema: &Schema, proven: &Proven) -> Result<(), String> {
        let e = &proven.entry;
        if e.run_id != self.run_id {
            return Err(format!("it is of run {}", e.run_id));
        }
        let avro = STANDARD
            .decode(&proven.avro)
            .map_err(|e| format!("avro is not base64: {e}"))?;
        if AuditEntry::from_avro(schema, &avro).map_err(|e| e.0)? != *e {
            return Err("what is shown is not what was chained".into());
        }
        if proven.says.as_ref().is_some_and(|says| digest_of(says) != e.digest) {
            return Err("what it is said to say is not what was chained".into());
        }
        if proven.checkpoint == 0 {
            return Ok(());
        }
        let covers = |c: &&Checkpoint| c.chain == e.chain && c.number == proven.checkpoint;
        let c = self
            .checkpoints
            .iter()
            .find(covers)
            .ok_or("its checkpoint is not in this file")?;
        let number = |n: i64| usize::try_from(n).map_err(|_| "it is not covered by its checkpoint".to_owned());
        let (index, count) = (number(e.seq - c.first_seq)?, number(c.last_seq - c.first_seq + 1)?);
        let proof = proven.proof.iter().map(|h| hash(h)).collect::<Result<Vec<_>, _>>()?;
        let root = merkle::proven(&Sha256::digest(&avro).into(), index, count, &proof);
        if root == Some(hash(&c.root)?) {
            Ok(())
        } else {
            Err(format!("its proof does not lead to checkpoint {}", c.number))
        }
    }

    /// The same for people: one page, nothing loaded from elsewhere.
    pub fn html(&self) -> String {
        let mut page = format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Evidence of {run}</title><style>\
             body{{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222}}\
             table{{border-collapse:collapse;width:100%}}td,th{{border-bottom:1px solid #ddd;padding:.4rem .5rem;text-align:left;vertical-align:top}}\
             pre{{white-space:pre-wrap;word-break:break-word;margin:0;font-size:12px}}summary{{cursor:pointer}}code{{font-size:12px;word-break:break-all}}\
             </style></head><body><h1>Evidence of run <code>{run}</code></h1><p>{n} entries, {c} signed checkpoints. \
             <code>soma audit check FILE.json</code> checks the JSON file beside this page without any server.</p>\
             <table><tr><th>Chain, entry</th><th>Written</th><th>Record</th><th>Says</th><th>Checkpoint</th></tr>",
            run = escape(&self.run_id),
            n = self.entries.len(),
            c = self.checkpoints.len()
        );
        for p in &self.entries {
            let e = &p.entry;
            let says = p.says.as_deref().map_or_else(
                || "<em>erased, or its key was not given</em>".to_owned(),
                |says| {
                    format!(
                        "<details><summary>{}</summary><pre>{}</pre></details>",
                        escape(&e.subject),
                        escape(&pretty(says))
                    )
                },
            );
            let sealed = if p.checkpoint == 0 {
                "none yet".to_owned()
            } else {
                p.checkpoint.to_string()
            };
            page.push_str(&format!(
                "<tr><td>{}, {}</td><td>{}</td><td>{} <strong>{}</strong></td><td>{says}</td><td>{sealed}</td></tr>",
                e.chain,
                e.seq,
                e.written_at,
                escape(&e.record),
                escape(&e.fact)
            ));
        }
        page.push_str("</table><h2>Checkpoints</h2><table><tr><th>Chain, number</th><th>Entries</th><th>Signed</th><th>Root, key</th></tr>");
        for c in &self.checkpoints {
            page.push_str(&format!(
                "<tr><td>{}, {}</td><td>{} to {}</td><td>{}</td><td><code>{}</code><br><code>{}</code></td></tr>",
                c.chain,
                c.number,
                c.first_seq,
                c.last_seq,
                c.signed_at,
                escape(&c.root),
                escape(&c.public_key)
            ));
        }
        page.push_str("</table></body></html>\n");
        page
    }
}

fn pretty(json: &str) -> String {
    serde_json::from_str::<serde_json::Value>(json).map_or_else(|_| json.to_owned(), |v| format!("{v:#}"))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Puts evidence together: the entries of a run among those a checkpoint covers, with their proofs.
///
/// `entries`: every entry of the period as Avro bytes, in order; `mine` picks the run's.
///
/// # Errors
/// Bytes that are not an entry.
pub fn prove(
    entries: &[Vec<u8>],
    covered_by: Option<&Checkpoint>,
    mine: &dyn Fn(&AuditEntry) -> bool,
    says: &dyn Fn(&AuditEntry) -> Option<String>,
) -> Result<Vec<Proven>, String> {
    let hashes: Vec<Hash> = entries.iter().map(|avro| Sha256::digest(avro).into()).collect();
    let mut proven = Vec::new();
    for (index, avro) in entries.iter().enumerate() {
        let entry = AuditEntry::from_avro(AuditEntry::schema(), avro).map_err(|e| e.0)?;
        if !mine(&entry) {
            continue;
        }
        let proof = covered_by.map(|_| merkle::proof(&hashes, index)).unwrap_or_default();
        proven.push(Proven {
            says: says(&entry),
            avro: STANDARD.encode(avro),
            checkpoint: covered_by.map_or(0, |c| c.number),
            proof: proof.iter().map(hex::encode).collect(),
            entry,
        });
    }
    Ok(proven)
}
