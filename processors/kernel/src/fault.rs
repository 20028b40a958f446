//! What can go wrong, and whose fault it is. Blame decides what the loop does: dead-letter, wait, or halt.

use std::fmt;

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The record: it goes to the dead-letter topic and the partition moves on.
    Input,
    /// Something we depend on: back off and try the same record again; nothing is lost, nothing is diverted.
    Dependency,
    /// Us: halt without committing, so that an operator sees it and nothing wrong is written.
    Ourselves,
}

macro_rules! fault_codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $blame:ident;)+) => {
        /// A fault as a fact. Each code has a page in `deploy/runbooks/<CODE>.md`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum FaultCode { $($(#[doc = $doc])+ $name,)+ }

        impl FaultCode {
            /// Every code, in order of declaration.
            pub const ALL: &'static [FaultCode] = &[$(FaultCode::$name,)+];

            /// The code as printed in headers, logs and runbook names.
            pub fn as_str(self) -> &'static str {
                match self { $(FaultCode::$name => $code,)+ }
            }

            /// Whose fault this code means.
            pub fn blame(self) -> Blame {
                match self { $(FaultCode::$name => Blame::$blame,)+ }
            }
        }
    };
}

fault_codes! {
    /// The record does not start with the Confluent magic byte and schema id.
    RecordNotFramed = "RECORD_NOT_FRAMED", Input;
    /// The registry does not know the schema id.
    SchemaUnknown = "SCHEMA_UNKNOWN", Input;
    /// The record was written with a schema that does not resolve to ours, or its bytes do not match it.
    RecordUnreadable = "RECORD_UNREADABLE", Input;
    /// The record is readable but says something impossible.
    RecordInvalid = "RECORD_INVALID", Input;
    /// The record we would write is larger than its topic takes.
    RecordTooLarge = "RECORD_TOO_LARGE", Input;
    /// The tenant name is not 1 to 64 of a-z, 0-9, `-`, `_`.
    TenantInvalid = "TENANT_INVALID", Input;
    /// The request names no capsule, wizard or goal.
    RequestEmpty = "REQUEST_EMPTY", Input;
    /// Free text needs a planner, and none is deployed.
    PlannerMissing = "PLANNER_MISSING", Input;
    /// The catalogue has no such capsule or wizard.
    CapsuleUnknown = "CAPSULE_UNKNOWN", Input;
    /// An input is missing, unknown, or not of the declared type.
    InputInvalid = "INPUT_INVALID", Input;
    /// The steps of a plan need each other in a circle, or need a step that is not there.
    PlanInvalid = "PLAN_INVALID", Input;
    /// A step's arguments refer to a result that is not there.
    ReferenceInvalid = "REFERENCE_INVALID", Input;
    /// The policy denied it.
    PolicyDenied = "POLICY_DENIED", Input;
    /// A human denied it, or nobody answered in time.
    ApprovalDenied = "APPROVAL_DENIED", Input;
    /// A human asks for changes; the plan may come again with them.
    ChangesRequested = "CHANGES_REQUESTED", Input;
    /// A kill switch or a cancel covers it.
    ControlStopped = "CONTROL_STOPPED", Input;
    /// The policy bundle failed while judging; the gate denies.
    PolicyUnreadable = "POLICY_UNREADABLE", Input;
    /// A constitution is not signed by who may, was altered, or is over; the one before stays.
    ConstitutionRefused = "CONSTITUTION_REFUSED", Input;
    /// The call carries no valid allow for the digest of exactly these arguments.
    PermitInvalid = "PERMIT_INVALID", Input;
    /// No such tool or operation.
    ToolUnknown = "TOOL_UNKNOWN", Input;
    /// The arguments do not fit the tool's operation.
    ArgumentsInvalid = "ARGUMENTS_INVALID", Input;
    /// A secret reference names nothing the platform was given.
    SecretUnknown = "SECRET_UNKNOWN", Input;
    /// The tool answered that it failed.
    ToolFailed = "TOOL_FAILED", Input;
    /// The tool did not answer in time.
    ToolTimedOut = "TOOL_TIMED_OUT", Input;
    /// The tool cannot be reached; nothing was sent.
    ToolUnreachable = "TOOL_UNREACHABLE", Input;
    /// It cannot be told whether the call happened.
    OutcomeUnknown = "OUTCOME_UNKNOWN", Input;
    /// The call's deadline passed before it was tried.
    DeadlinePassed = "DEADLINE_PASSED", Input;
    /// The broker does not answer.
    BrokerUnavailable = "BROKER_UNAVAILABLE", Dependency;
    /// A transaction did not commit; it is made again.
    CommitFailed = "COMMIT_FAILED", Dependency;
    /// A transaction was aborted as a whole: nothing of it is true, and it is made again.
    TransactionAborted = "TRANSACTION_ABORTED", Dependency;
    /// The schema registry does not answer.
    RegistryUnavailable = "REGISTRY_UNAVAILABLE", Dependency;
    /// A store (ClickHouse, Qdrant, Redis, Pushgateway) does not answer.
    StoreUnavailable = "STORE_UNAVAILABLE", Dependency;
    /// A store refused what we wrote: it is our statement or our schema that is wrong.
    StoreRefused = "STORE_REFUSED", Ourselves;
    /// The key that a tenant's audit entries are encrypted with cannot be read or made.
    AuditKeyUnreadable = "AUDIT_KEY_UNREADABLE", Dependency;
    /// The model that embeds text cannot be loaded or run.
    ModelUnavailable = "MODEL_UNAVAILABLE", Dependency;
    /// Again and again another living instance joined the group under our instance name; this one must stop.
    Fenced = "FENCED", Ourselves;
    /// A stage's state cannot be read by this version.
    StateUnreadable = "STATE_UNREADABLE", Ourselves;
    /// State on disk cannot be read or written.
    StateOnDisk = "STATE_ON_DISK", Ourselves;
    /// `fuse` was changed and what the former layout left cannot be taken over.
    LayoutChanged = "LAYOUT_CHANGED", Ourselves;
    /// The topics a stage needs are missing or not partitioned alike.
    TopicsMismatched = "TOPICS_MISMATCHED", Ourselves;
    /// The configuration is wrong.
    ConfigInvalid = "CONFIG_INVALID", Ourselves;
    /// A bug of ours.
    Internal = "INTERNAL", Ourselves;
}

impl fmt::Display for FaultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something that went wrong, with its code, whose fault it is, and what an operator needs to know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Fault {
    /// The fact.
    pub code: FaultCode,
    /// Whose fault it is.
    pub blame: Blame,
    /// What happened: names the field, file or system, and the fix where there is one.
    pub detail: String,
}

impl Fault {
    /// A fault with the blame its code means.
    pub fn new(code: FaultCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            blame: code.blame(),
            detail: detail.into(),
        }
    }

    /// The same as the fault a record carries.
    pub fn info(&self, retryable: bool) -> schemas::records::FaultInfo {
        schemas::records::FaultInfo {
            code: self.code.as_str().to_owned(),
            detail: self.detail.clone(),
            retryable,
        }
    }
}

/// One thing wrong with a configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    /// Path in the file, for example `stages[2].topics`.
    pub path: String,
    /// What is wrong and how to put it right.
    pub detail: String,
}

impl ConfigFault {
    /// A fault at a path.
    pub fn new(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            detail: detail.into(),
        }
    }
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.detail)
    }
}
