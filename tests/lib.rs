//! The tests' crate. What it holds is in `main.rs`; this file only lets cargo name it.
