//! Vectors of texts seen lately. Agents repeat themselves: the same step on the same system says the same thing, and the model,
//! at several milliseconds a text, is the most expensive thing a memory costs.

use std::collections::HashMap;

/// Most vectors kept: 3 MiB of numbers, and the texts.
const KEPT_MAX: usize = 2_048;

/// Keeps vectors by text. When it is full it starts over, which needs no bookkeeping on every hit.
#[derive(Default)]
pub(crate) struct Recent(HashMap<String, Vec<f32>>);

impl Recent {
    /// The texts among these that are not known, each once.
    pub(crate) fn unknown(&self, texts: &[String]) -> Vec<String> {
        let mut fresh: Vec<String> = texts.iter().filter(|t| !self.0.contains_key(*t)).cloned().collect();
        fresh.sort();
        fresh.dedup();
        fresh
    }

    /// Takes vectors in.
    pub(crate) fn keep(&mut self, texts: Vec<String>, vectors: Vec<Vec<f32>>) {
        if self.0.len() + texts.len() > KEPT_MAX {
            self.0.clear();
        }
        self.0.extend(texts.into_iter().zip(vectors));
    }

    /// The vectors of these texts, in their order; `None` when one is not known.
    pub(crate) fn all(&self, texts: &[String]) -> Option<Vec<Vec<f32>>> {
        texts.iter().map(|t| self.0.get(t).cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_asked_for_once() {
        let mut recent = Recent::default();
        let texts: Vec<String> = ["b", "a", "b"].map(str::to_owned).into();
        assert_eq!(recent.unknown(&texts), ["a", "b"]);
        assert_eq!(recent.all(&texts), None);
        recent.keep(recent.unknown(&texts), vec![vec![1.0], vec![2.0]]);
        assert_eq!(recent.all(&texts), Some(vec![vec![2.0], vec![1.0], vec![2.0]]));
        assert!(recent.unknown(&texts).is_empty());
    }
}
