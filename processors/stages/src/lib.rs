//! The deterministic capabilities, one folder each. They decide and never act: no clock, no randomness, no environment, no tasks.
//! Siblings do not import each other; they meet only on a topic.

mod approvers;
pub mod audit;
mod hours;
pub mod intake;
pub mod invoker;
pub mod memory_indexer;
pub mod orchestrator;
pub mod policy_gate;
