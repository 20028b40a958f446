//! all-MiniLM-L6-v2: text to 384 numbers by meaning, on the CPU through ONNX Runtime. It neither splits long texts nor caches.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use kernel::{Embedder, Fault, FaultCode};
use ndarray::Array2;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::Tensor;
use tokenizers::{Encoding, PaddingParams, Tokenizer, TruncationParams};

use crate::pooling::mean_unit;
use crate::recent::Recent;
use crate::runtime::{environment, present, unavailable};

const DIMENSIONS: usize = 384;
/// Longer texts are cut: the model was trained on no more.
const TOKENS_MAX: usize = 256;
/// Texts per run of the model: bounds the memory of one run to some tens of megabytes.
const BATCH_MAX: usize = 16;
const THREADS_MAX: usize = 64;

/// The model, loaded. Runs are serial: one instance is one session.
pub struct MiniLm {
    session: Mutex<Session>,
    recent: Mutex<Recent>,
    tokenizer: Tokenizer,
    /// Inputs the model asks for, in its order: some exports leave `token_type_ids` out.
    inputs: Vec<Input>,
    output: String,
    path: PathBuf,
}

#[derive(Clone, Copy)]
enum Input {
    Ids,
    Mask,
    Types,
}

impl Input {
    fn named(name: &str) -> Option<Self> {
        match name {
            "input_ids" => Some(Self::Ids),
            "attention_mask" => Some(Self::Mask),
            "token_type_ids" => Some(Self::Types),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ids => "input_ids",
            Self::Mask => "attention_mask",
            Self::Types => "token_type_ids",
        }
    }

    fn of(self, encoding: &Encoding) -> &[u32] {
        match self {
            Self::Ids => encoding.get_ids(),
            Self::Mask => encoding.get_attention_mask(),
            Self::Types => encoding.get_type_ids(),
        }
    }
}

impl MiniLm {
    /// Loads the ONNX Runtime library, the model and its tokenizer, and runs it once. `threads` (1 to 64) serve one run.
    /// Blocking: some hundred milliseconds.
    ///
    /// # Errors
    /// `MODEL_UNAVAILABLE` naming the file and the fix; `CONFIG_INVALID` for threads out of range or a second library path.
    pub fn load(runtime_path: &Path, onnx_path: &Path, tokenizer_path: &Path, threads: usize) -> Result<Self, Fault> {
        if !(1..=THREADS_MAX).contains(&threads) {
            let detail = format!("threads is {threads}; set it between 1 and {THREADS_MAX}");
            return Err(Fault::new(FaultCode::ConfigInvalid, detail));
        }
        present("the model", onnx_path)?;
        present("the tokenizer", tokenizer_path)?;
        let tokenizer = tokenizer(tokenizer_path)?;
        let environment = environment(runtime_path)?;
        let refused = |e: &dyn std::fmt::Display| unavailable("the model", onnx_path, e);
        let session = Session::builder(&environment)
            .map_err(|e| refused(&e))?
            .with_intra_threads(threads)
            .map_err(|e| refused(&e))?
            .with_optimization_level(GraphOptimizationLevel::Level3)
            .map_err(|e| refused(&e))?
            .commit_from_file(onnx_path)
            .map_err(|e| refused(&e))?;
        let (inputs, output) = signature(&session).map_err(|e| refused(&e))?;
        let model = Self {
            session: Mutex::new(session),
            recent: Mutex::default(),
            tokenizer,
            inputs,
            output,
            path: onnx_path.to_owned(),
        };
        // A model of another shape shows here and not at the first memory.
        model.embed(&["ready".to_owned()])?;
        Ok(model)
    }

    fn run(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, Fault> {
        let failed = |e: &dyn std::fmt::Display| {
            Fault::new(
                FaultCode::ModelUnavailable,
                format!("model {} did not run: {e}", self.path.display()),
            )
        };
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let encodings = self.tokenizer.encode_batch(texts, true).map_err(|e| failed(&e))?;
        let length = encodings.iter().map(Encoding::len).max().unwrap_or(0);
        let mut feeds = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let values = encodings
                .iter()
                .flat_map(|e| input.of(e))
                .map(|v| i64::from(*v))
                .collect();
            let array = Array2::from_shape_vec((encodings.len(), length), values).map_err(|e| failed(&e))?;
            let tensor = Tensor::from_array(array).map_err(|e| failed(&e))?;
            feeds.push((Cow::from(input.name()), SessionInputValue::from(tensor)));
        }
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let outputs = session.run(feeds).map_err(|e| failed(&e))?;
        let output = outputs
            .get(&self.output)
            .ok_or_else(|| failed(&"it gave no token vectors"))?;
        let (shape, data) = output.try_extract_tensor::<f32>().map_err(|e| failed(&e))?;
        let expected = [encodings.len() as i64, length as i64, DIMENSIONS as i64];
        if shape[..] != expected {
            return Err(failed(&format!(
                "output `{}` has shape {shape:?}, not {expected:?}",
                self.output
            )));
        }
        let tokens = data.chunks_exact(length * DIMENSIONS);
        let vector = |(tokens, encoding): (&[f32], &Encoding)| {
            let mask: Vec<i64> = encoding.get_attention_mask().iter().map(|m| i64::from(*m)).collect();
            mean_unit(tokens, &mask, DIMENSIONS)
        };
        Ok(tokens.zip(&encodings).map(vector).collect())
    }
}

impl Embedder for MiniLm {
    fn dimensions(&self) -> usize {
        DIMENSIONS
    }

    fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, Fault> {
        let lock = || self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        // A batch larger than what is kept would push its own beginning out.
        if texts.len() > BATCH_MAX {
            return texts
                .chunks(BATCH_MAX)
                .map(|batch| self.embed(batch))
                .collect::<Result<Vec<_>, _>>()
                .map(|v| v.concat());
        }
        let fresh = lock().unknown(texts);
        if !fresh.is_empty() {
            let vectors = self.run(&fresh)?;
            lock().keep(fresh, vectors);
        }
        match lock().all(texts) {
            Some(vectors) => Ok(vectors),
            // Another thread's batch emptied it in between.
            None => self.run(texts),
        }
    }
}

/// The tokenizer with our limits in place of its file's, which pads every text to 128 tokens and cuts there.
fn tokenizer(path: &Path) -> Result<Tokenizer, Fault> {
    let refused = |e: &dyn std::fmt::Display| unavailable("the tokenizer", path, e);
    let mut tokenizer = Tokenizer::from_file(path).map_err(|e| refused(&e))?;
    let truncation = TruncationParams {
        max_length: TOKENS_MAX,
        ..TruncationParams::default()
    };
    tokenizer.with_truncation(Some(truncation)).map_err(|e| refused(&e))?;
    // Pads to the longest of the batch; BERT's padding token is 0.
    tokenizer.with_padding(Some(PaddingParams::default()));
    Ok(tokenizer)
}

/// What the model takes and gives, by name.
fn signature(session: &Session) -> Result<(Vec<Input>, String), String> {
    let mut inputs = Vec::new();
    for outlet in session.inputs() {
        let known = Input::named(outlet.name());
        inputs
            .push(known.ok_or_else(|| format!("it asks for an input `{}`, which BERT does not have", outlet.name()))?);
    }
    let output = session
        .outputs()
        .iter()
        .map(|o| o.name())
        .find(|n| *n == "last_hidden_state" || *n == "token_embeddings");
    let output = output.or_else(|| session.outputs().first().map(|o| o.name()));
    Ok((inputs, output.ok_or("it has no output")?.to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn missing_files_and_bad_threads_are_named_with_the_fix() {
        let here = Path::new(file!());
        let gone = Path::new("no/such/model.onnx");
        let fault = MiniLm::load(here, gone, here, 1).err().unwrap();
        assert_eq!(fault.code, FaultCode::ModelUnavailable);
        assert!(fault.detail.contains("no/such/model.onnx"), "{fault}");
        assert!(fault.detail.contains("python3 deploy/dev/stack.py setup"), "{fault}");
        let fault = MiniLm::load(gone, gone, gone, 0).err().unwrap();
        assert!(
            fault.code == FaultCode::ConfigInvalid && fault.detail.contains("threads"),
            "{fault}"
        );
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_refused_by_name() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let manifest = folder.join("Cargo.toml");
        let fault = MiniLm::load(&manifest, &manifest, &manifest, 1).err().unwrap();
        assert!(
            fault.detail.contains("the tokenizer") && fault.detail.contains("Cargo.toml"),
            "{fault}"
        );
        let fault = MiniLm::load(&manifest, folder, &manifest, 1).err().unwrap();
        assert!(fault.detail.contains("not a file"), "{fault}");
    }
}
