//! Whether a chain is whole: entry after entry, and against its checkpoints. Reads of an entry only what it needs, straight from
//! its Avro bytes.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use schemas::records::Checkpoint;
use sha2::{Digest, Sha256};

use super::checkpoint::{self, ZEROS};
use super::merkle::{Hash, Tree};

/// The first thing that is wrong with a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Chain.
    pub chain: i32,
    /// Entry at which it shows.
    pub seq: i64,
    /// What.
    pub why: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chain {} breaks at entry {}: {}", self.chain, self.seq, self.why)
    }
}

/// What was found of a chain that is whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whole {
    /// Entries.
    pub entries: i64,
    /// Hash of the last, 64 hex digits.
    pub head: String,
    /// Checkpoints.
    pub checkpoints: usize,
    /// Entries behind the last checkpoint: only their order is proven yet.
    pub unsealed: i64,
}

/// The first fields of an entry.
struct Begin<'a> {
    previous: &'a [u8],
    chain: i64,
    seq: i64,
}

/// An Avro long.
fn long(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (mut value, mut rest) = (0_u64, bytes);
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let sign = (value & 1).wrapping_neg();
            return Some((((value >> 1) ^ sign).cast_signed(), rest));
        }
    }
    None
}

fn begin(datum: &[u8]) -> Option<Begin<'_>> {
    let (length, rest) = long(datum)?;
    let (previous, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    let (chain, rest) = long(rest)?;
    let (seq, _) = long(rest)?;
    Some(Begin { previous, chain, seq })
}

/// Chain and number of an entry, from its Avro bytes; `None` when they are no entry's.
pub fn place(datum: &[u8]) -> Option<(i32, i64)> {
    let begin = begin(datum)?;
    Some((i32::try_from(begin.chain).ok()?, begin.seq))
}

fn equals_hex(hash: &Hash, text: &[u8]) -> bool {
    let mut digits = [0; 64];
    hex::encode_to_slice(hash, &mut digits).is_ok() && digits == text
}

/// Verifies one chain.
pub struct Verifier<'k> {
    chain: i32,
    seq: i64,
    head: Option<Hash>,
    since: Tree,
    checkpoints: VecDeque<Checkpoint>,
    seen: usize,
    /// Signed text of the checkpoint met last.
    sealed: String,
    /// Last entry it covers.
    covered: i64,
    /// Keys whose checkpoints are believed.
    trusted: &'k [String],
}

impl<'k> Verifier<'k> {
    /// Verifies `chain` against its checkpoints, in any order. `trusted`: public keys that may have signed them, 64 hex digits.
    pub fn new(chain: i32, mut checkpoints: Vec<Checkpoint>, trusted: &'k [String]) -> Self {
        checkpoints.sort_by_key(|c| c.number);
        Self {
            chain,
            seq: 0,
            head: None,
            since: Tree::default(),
            checkpoints: checkpoints.into(),
            seen: 0,
            sealed: ZEROS.to_owned(),
            covered: 0,
            trusted,
        }
    }

    /// Last entry taken.
    pub fn seq(&self) -> i64 {
        self.seq
    }

    /// Its hash, 64 hex digits; zeros before the first.
    pub fn head(&self) -> String {
        self.head.map_or_else(|| ZEROS.to_owned(), hex::encode)
    }

    /// The next entry cannot even be made into bytes.
    pub fn wrong(&self, why: impl Into<String>) -> Broken {
        self.broken(self.seq + 1, why)
    }

    fn broken(&self, seq: i64, why: impl Into<String>) -> Broken {
        Broken {
            chain: self.chain,
            seq,
            why: why.into(),
        }
    }

    /// The next entry: its Avro bytes, without the frame.
    ///
    /// # Errors
    /// What is wrong with it or with the checkpoint that covers it.
    pub fn entry(&mut self, datum: &[u8]) -> Result<(), Broken> {
        let seq = self.seq + 1;
        let Some(begin) = begin(datum) else {
            return Err(self.broken(seq, "it is not an audit entry"));
        };
        if begin.chain != i64::from(self.chain) {
            return Err(self.broken(seq, format!("an entry of chain {} stands here", begin.chain)));
        }
        if begin.seq != seq {
            return Err(self.broken(seq, format!("entry {} stands here", begin.seq)));
        }
        let follows = match &self.head {
            Some(head) => equals_hex(head, begin.previous),
            None => begin.previous == ZEROS.as_bytes(),
        };
        if !follows {
            return Err(self.broken(
                seq,
                "it does not follow the entry before it: one of the two was changed",
            ));
        }
        let hash: Hash = Sha256::digest(datum).into();
        (self.seq, self.head) = (seq, Some(hash));
        self.since.push(&hash);
        match self.checkpoints.front() {
            Some(next) if next.last_seq <= seq => self.checkpoint(&hash),
            _ => Ok(()),
        }
    }

    fn checkpoint(&mut self, head: &Hash) -> Result<(), Broken> {
        let Some(c) = self.checkpoints.pop_front() else {
            return Ok(());
        };
        self.seen += 1;
        let number = c.number;
        let wrong = |what: &str| self.broken(self.seq, format!("checkpoint {number}: {what}"));
        let ours = i64::try_from(self.seen).unwrap_or(i64::MAX);
        if number != ours || c.previous != self.sealed {
            return Err(wrong(&format!(
                "it does not follow checkpoint {}: one is missing or was changed",
                ours - 1
            )));
        }
        if c.chain != self.chain || c.first_seq != self.covered + 1 || c.last_seq != self.seq {
            return Err(wrong("it does not cover the entries since the one before it"));
        }
        if !equals_hex(head, c.head.as_bytes()) {
            return Err(wrong("the last entry it covers is not the one that was signed"));
        }
        if !equals_hex(&self.since.root(), c.root.as_bytes()) {
            return Err(wrong("the entries it covers are not those that were signed"));
        }
        if !self.trusted.contains(&c.public_key) {
            return Err(wrong(&format!("signed by {}, which is not trusted", c.public_key)));
        }
        checkpoint::verify(&c).map_err(|why| wrong(&why))?;
        self.sealed = checkpoint::signed_text(&c);
        self.covered = c.last_seq;
        self.since = Tree::default();
        Ok(())
    }

    /// Nothing more comes.
    ///
    /// # Errors
    /// A checkpoint speaks of entries that are not there.
    pub fn finish(self) -> Result<Whole, Broken> {
        if let Some(c) = self.checkpoints.front() {
            let why = format!(
                "checkpoint {} covers entries up to {}, which are missing",
                c.number, c.last_seq
            );
            return Err(self.broken(self.seq + 1, why));
        }
        Ok(Whole {
            entries: self.seq,
            head: self.head(),
            checkpoints: self.seen,
            unsealed: self.seq - self.covered,
        })
    }
}

/// Checkpoints by chain.
pub fn by_chain(checkpoints: impl IntoIterator<Item = Checkpoint>) -> BTreeMap<i32, Vec<Checkpoint>> {
    let mut chains: BTreeMap<i32, Vec<Checkpoint>> = BTreeMap::new();
    for checkpoint in checkpoints {
        chains.entry(checkpoint.chain).or_default().push(checkpoint);
    }
    chains
}
