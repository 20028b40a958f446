//! Merkle trees as RFC 6962 has them: grown entry by entry, and proofs that an entry is in one.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A SHA-256.
pub type Hash = [u8; 32];

fn leaf(entry: &Hash) -> Hash {
    Sha256::new().chain_update([0]).chain_update(entry).finalize().into()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    let hash = Sha256::new().chain_update([1]).chain_update(left);
    hash.chain_update(right).finalize().into()
}

/// What must be kept of a tree for it to grow: the roots of its complete parts, the largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// Entries in it.
    #[serde(rename = "n")]
    pub count: u64,
    #[serde(rename = "p", with = "peaks")]
    peaks: Vec<Hash>,
}

mod peaks {
    use super::Hash;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(peaks: &[Hash], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(peaks.concat()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Hash>, D::Error> {
        let bytes = hex::decode(String::deserialize(from)?).map_err(D::Error::custom)?;
        let (peaks, rest) = bytes.as_chunks::<32>();
        if rest.is_empty() {
            Ok(peaks.to_vec())
        } else {
            Err(D::Error::custom("peaks are not whole"))
        }
    }
}

impl Tree {
    /// Adds the hash of an entry.
    pub fn push(&mut self, entry: &Hash) {
        let mut hash = leaf(entry);
        for _ in 0..self.count.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                hash = node(&left, &hash);
            }
        }
        self.peaks.push(hash);
        self.count += 1;
    }

    /// The root; of no entries, the hash of nothing.
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else {
            return Sha256::digest([]).into();
        };
        peaks.fold(*last, |right, left| node(left, &right))
    }
}

/// Entries left of the split of a tree of `n`: the largest power of two below it.
fn split(n: usize) -> usize {
    n.next_power_of_two() / 2
}

fn root(entries: &[Hash]) -> Hash {
    let mut tree = Tree::default();
    entries.iter().for_each(|entry| tree.push(entry));
    tree.root()
}

/// Proof that the entry at `index` is in the tree of these: the hashes beside its way to the root, the lowest first.
pub fn proof(entries: &[Hash], index: usize) -> Vec<Hash> {
    if entries.len() < 2 || index >= entries.len() {
        return Vec::new();
    }
    let (left, right) = entries.split_at(split(entries.len()));
    let (mut proof, beside) = match index.checked_sub(left.len()) {
        None => (self::proof(left, index), root(right)),
        Some(index) => (self::proof(right, index), root(left)),
    };
    proof.push(beside);
    proof
}

/// The root that a proof leads to; `None` when it is not as long as it must be.
pub fn proven(entry: &Hash, index: usize, count: usize, proof: &[Hash]) -> Option<Hash> {
    if index >= count {
        return None;
    }
    if count == 1 {
        return proof.is_empty().then(|| leaf(entry));
    }
    let (beside, rest) = proof.split_last()?;
    let half = split(count);
    Some(match index.checked_sub(half) {
        None => node(&proven(entry, index, half, rest)?, beside),
        Some(index) => node(beside, &proven(entry, index, count - half, rest)?),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn entries(n: usize) -> Vec<Hash> {
        (0..n).map(|i| Sha256::digest(i.to_be_bytes()).into()).collect()
    }

    #[test]
    fn the_tree_is_that_of_rfc_6962() {
        // MTH({}) is the hash of the empty string; MTH of three is node(node(a, b), c).
        assert_eq!(
            hex::encode(Tree::default().root()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        let e = entries(3);
        assert_eq!(root(&e), node(&node(&leaf(&e[0]), &leaf(&e[1])), &leaf(&e[2])));
    }

    #[test]
    fn every_entry_can_be_proven_and_no_other() {
        for n in 1..40 {
            let all = entries(n);
            for i in 0..n {
                let proof = proof(&all, i);
                assert_eq!(proven(&all[i], i, n, &proof), Some(root(&all)), "{i} of {n}");
                assert_ne!(
                    proven(&all[(i + 1) % n], i, n, &proof).filter(|_| n > 1),
                    Some(root(&all))
                );
                assert_eq!(proven(&all[i], n, n, &proof), None);
            }
        }
    }

    #[test]
    fn a_tree_grows_on_from_what_was_kept_of_it() {
        let mut tree = Tree::default();
        for (i, entry) in entries(37).iter().enumerate() {
            tree = serde_json::from_str(&serde_json::to_string(&tree).unwrap()).unwrap();
            tree.push(entry);
            assert_eq!(tree.root(), root(&entries(i + 1)));
        }
    }
}
