//! The records: one file each, named as its `.avsc`.

mod approval;
mod audit_entry;
mod call;
mod checkpoint;
mod control;
mod event;
mod memory;
mod metric;
mod outcome;
mod plan;
mod proposal;
mod request;
mod run;
mod shared;
mod verdict;

pub use approval::{Approval, ApprovalDecision};
pub use audit_entry::AuditEntry;
pub use call::Call;
pub use checkpoint::Checkpoint;
pub use control::{Control, ControlAction, Scope};
pub use event::Event;
pub use memory::{Memory, MemoryKind};
pub use metric::Metric;
pub use outcome::{Outcome, OutcomeStatus};
pub use plan::{Compensation, Plan, Refusal, Retry, Step};
pub use proposal::{ApprovalRef, Proposal, ProposedStep};
pub use request::Request;
pub use run::{Run, RunStatus, RunStep, StepStatus, Waiting};
pub use shared::{Autonomy, CallKind, Decision, FaultInfo, Permit, Severity, Subject};
pub use verdict::{StepVerdict, Verdict, Violation};
