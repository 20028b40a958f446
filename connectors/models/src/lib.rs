//! Models the platform runs itself. Today: sentence embeddings. Reads no environment: the composition root says where files are.
#![warn(missing_docs)]

#[cfg(test)]
mod live_tests;
mod minilm;
mod pooling;
mod recent;
mod runtime;

pub use minilm::MiniLm;
