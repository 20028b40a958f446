//! The audit: chains every request, verdict, human's answer and its receipt, control, role, policy, constitution, strike, call and outcome, one chain for
//! each partition, and signs a checkpoint of each chain once a minute. It decides nothing and keeps only how far a chain goes.

pub mod checkpoint;
pub mod evidence;
mod facts;
pub mod merkle;
mod pack;
mod seal;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
pub mod verify;

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use kernel::{Blame, ConfigFault, Decoder, Delivery, Effects, Emit, Fault, Processor, Timer};
use schemas::records::{
    Approval, AuditEntry, Call, Checkpoint, Constitution, Control, Delegation, Member, Outcome, Policy, Receipt,
    Request, Sbom, Strike, Verdict,
};
use schemas::topics;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use checkpoint::ZEROS;
use merkle::Tree;
pub use seal::{Key, Keyring, unseal};

kernel::inputs! {
    /// What is chained. Verdicts lead: they are partitioned by run.
    pub enum Input {
        Verdict(Verdict) = topics::VERDICTS,
        Request(Request) = topics::REQUESTS,
        Approval(Approval) = topics::APPROVALS,
        Delegation(Delegation) = topics::DELEGATIONS,
        Receipt(Receipt) = topics::RECEIPTS,
        Control(Control) = topics::CONTROLS,
        Member(Member) = topics::MEMBERS,
        Policy(Policy) = topics::POLICIES,
        Constitution(Constitution) = topics::CONSTITUTIONS,
        Sbom(Sbom) = topics::SBOMS,
        Strike(Strike) = topics::STRIKES,
        Call(Call) = topics::CALLS,
        Outcome(Outcome) = topics::OUTCOMES,
    }
}

/// A record as it came. One that cannot be read is chained too: the stage it was meant for gives it to the dead letters, once.
#[derive(Clone, Debug)]
pub enum Seen {
    /// One that can be read.
    Read(Input),
    /// Bytes that cannot, and why.
    Unreadable(Vec<u8>, Fault),
}

impl kernel::Input for Seen {
    fn topics() -> Vec<&'static str> {
        Input::topics()
    }

    fn decode(topic: &str, value: &[u8], decoder: &dyn Decoder) -> Result<Self, Fault> {
        match Input::decode(topic, value, decoder) {
            Ok(read) => Ok(Seen::Read(read)),
            Err(fault) if fault.blame == Blame::Input => Ok(Seen::Unreadable(value.to_vec(), fault)),
            Err(fault) => Err(fault),
        }
    }
}

const SEAL: &str = "checkpoint";
/// A partition's only key: the chain is over all records of the partition, whatever theirs.
const CHAIN: &str = "chain";

/// Settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Seconds from the first entry that no checkpoint covers to the checkpoint that does.
    #[serde(default = "minute")]
    pub checkpoint_s: i64,
}

fn minute() -> i64 {
    60
}

impl Config {
    /// What is wrong with it.
    pub fn check(&self) -> Vec<ConfigFault> {
        if (1..=86_400).contains(&self.checkpoint_s) {
            return Vec::new();
        }
        vec![ConfigFault::new("checkpoint_s", "is not from 1 to 86400 seconds")]
    }
}

/// How far a chain goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Chain {
    chain: i32,
    /// Last entry; 0 before the first.
    seq: i64,
    /// Its hash.
    head: String,
    /// Last checkpoint; 0 before the first.
    number: i64,
    /// Its signed text.
    sealed: String,
    /// Entries since.
    since: Tree,
}

/// The Ed25519 public key that belongs to a signing key, 64 hex digits.
pub fn public_key(signing_key: [u8; 32]) -> String {
    hex::encode(SigningKey::from_bytes(&signing_key).verifying_key().to_bytes())
}

/// The audit stage.
pub struct Audit {
    config: Config,
    key: SigningKey,
    keyring: Arc<dyn Keyring>,
}

impl Audit {
    /// An audit that signs with this Ed25519 secret.
    pub fn new(config: Config, signing_key: [u8; 32], keyring: Arc<dyn Keyring>) -> Self {
        Self {
            config,
            key: SigningKey::from_bytes(&signing_key),
            keyring,
        }
    }

    /// The Ed25519 public key that its checkpoints are checked with, 64 hex digits.
    pub fn public_key(&self) -> String {
        public_key(self.key.to_bytes())
    }
}

impl Processor for Audit {
    type In = Seen;
    type State = Chain;

    fn name(&self) -> &'static str {
        "audit"
    }

    fn state_key(&self) -> Option<&'static str> {
        Some(CHAIN)
    }

    fn step(&self, chain: &mut Chain, input: &Delivery<Seen>, fx: &mut Effects<'_>) -> Result<(), Fault> {
        let facts = facts::of(&input.input)?;
        let seq = chain.seq + 1;
        let place = (input.position.partition, seq);
        let (key_id, body) = match self.keyring.key(&facts.tenant)? {
            Some(key) => {
                let body = seal::seal(&key, place, &facts.text)?;
                (key.id, body)
            }
            None => Default::default(),
        };
        let entry = AuditEntry {
            previous: or_zeros(&chain.head),
            chain: place.0,
            seq,
            chained_at: fx.now(),
            record: facts.record.to_owned(),
            topic: input.position.topic.to_string(),
            offset: input.position.offset,
            written_at: input.at,
            digest: digest_of(&facts.text),
            tenant: facts.tenant,
            run_id: facts.run_id,
            subject: facts.subject,
            fact: facts.fact,
            key_id,
            body,
        };
        let at = if entry.run_id.is_empty() {
            &entry.subject
        } else {
            &entry.run_id
        };
        let mut emit = Emit::of(topics::AUDIT, at.as_str(), &entry.tenant, &entry)?;
        // The chain lies in one partition, whatever the keys of its entries.
        emit.partition = Some(place.0);
        let hash = Sha256::digest(&emit.avro).into();
        fx.emits.push(emit);
        if chain.since.count == 0 {
            fx.wake_at(SEAL, fx.now().plus_ms(self.config.checkpoint_s * 1000));
        }
        (chain.chain, chain.seq, chain.head) = (place.0, seq, hex::encode(hash));
        chain.since.push(&hash);
        Ok(())
    }

    fn on_timer(&self, chain: &mut Chain, _: &Timer, fx: &mut Effects<'_>) -> Result<(), Fault> {
        let count = i64::try_from(chain.since.count).unwrap_or(i64::MAX);
        if count == 0 {
            return Ok(());
        }
        let unsigned = Checkpoint {
            chain: chain.chain,
            number: chain.number + 1,
            first_seq: chain.seq - count + 1,
            last_seq: chain.seq,
            head: chain.head.clone(),
            root: hex::encode(chain.since.root()),
            previous: or_zeros(&chain.sealed),
            signed_at: fx.now(),
            ..Checkpoint::default()
        };
        let signed = checkpoint::sign(unsigned, &self.key);
        chain.number = signed.number;
        chain.sealed = checkpoint::signed_text(&signed);
        chain.since = Tree::default();
        fx.emit(topics::CHECKPOINTS, signed.chain.to_string(), "", &signed)
    }
}

fn or_zeros(hash: &str) -> String {
    if hash.is_empty() { ZEROS } else { hash }.to_owned()
}

/// SHA-256 of a record's canonical JSON, 64 hex digits.
pub fn digest_of(text: impl AsRef<[u8]>) -> String {
    hex::encode(Sha256::digest(text))
}
