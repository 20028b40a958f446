//! How a command fails: a code, what happened, what to do about it, and the exit code. Not the platform's faults
//! ([`kernel::Fault`]), though each of those becomes one.

use kernel::{Blame, Fault, FaultCode};

/// Done as asked.
pub(super) const OK: u8 = 0;
/// The operation failed, or found something in a state that is wrong.
pub(super) const FAILED: u8 = 1;
/// The command line or the input is wrong.
pub(super) const INPUT: u8 = 2;
/// A system we depend on does not answer.
pub(super) const UNREACHABLE: u8 = 3;

/// What a command gives: its exit code.
pub(super) type Done = Result<u8, Failure>;

/// Why a command stopped. Printed as `error[CODE]: text` and `help: ...`.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: String,
    pub(super) text: String,
    pub(super) help: String,
    pub(super) exit: u8,
}

impl Failure {
    fn new(exit: u8, code: &str, text: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            text: text.into(),
            help: help.into(),
            exit,
        }
    }

    /// The input or the arguments are wrong.
    pub(super) fn input(code: &str, text: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(INPUT, code, text, help)
    }

    /// What was asked cannot be done as things stand.
    pub(super) fn failed(code: &str, text: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(FAILED, code, text, help)
    }

    /// Something does not answer.
    pub(super) fn unreachable(code: &str, text: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(UNREACHABLE, code, text, help)
    }

    /// The reader of our output has gone (`soma subscribe | head`): nobody is left to be told, and nothing went wrong.
    pub(super) fn reader_gone() -> Self {
        Self::new(OK, "", "", "")
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        let exit = match (fault.code, fault.blame) {
            (_, Blame::Dependency) => UNREACHABLE,
            (FaultCode::ConfigInvalid | FaultCode::TopicsMismatched | FaultCode::StoreRefused, _) => INPUT,
            (_, Blame::Input) => INPUT,
            _ => FAILED,
        };
        Self::new(exit, fault.code.as_str(), fault.detail.clone(), help_for(fault.code))
    }
}

fn help_for(code: FaultCode) -> String {
    let first = match code {
        FaultCode::BrokerUnavailable => {
            "is Kafka up, and is SOMA_KAFKA_BROKERS right? `soma dev status` shows the dev stack"
        }
        FaultCode::RegistryUnavailable => {
            "is the schema registry up, and is SOMA_REGISTRY_URL right? `soma dev status` shows the dev stack"
        }
        FaultCode::StoreUnavailable => {
            "is the store up, and is its SOMA_*_URL right? `soma dev status` shows the dev stack"
        }
        FaultCode::ModelUnavailable => {
            "`python3 deploy/dev/stack.py setup` fetches the model; ORT_DYLIB_PATH, SOMA_MODEL_PATH and SOMA_TOKENIZER_PATH say where it is"
        }
        FaultCode::TopicsMismatched => {
            "`soma topics list` shows what the broker has, `soma topics apply` makes what is missing"
        }
        FaultCode::StoreRefused => "the statement is wrong; `soma sql \"SHOW TABLES\"` lists the tables",
        _ => "",
    };
    let page = format!("deploy/runbooks/{code}.md");
    if first.is_empty() {
        format!("see {page}")
    } else {
        format!("{first}; more in {page}")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_blame() {
        for (code, exit) in [
            (FaultCode::BrokerUnavailable, UNREACHABLE),
            (FaultCode::ModelUnavailable, UNREACHABLE),
            (FaultCode::RecordInvalid, INPUT),
            (FaultCode::ConfigInvalid, INPUT),
            (FaultCode::Internal, FAILED),
        ] {
            let failure = Failure::from(Fault::new(code, "x"));
            assert_eq!((failure.exit, failure.code.as_str()), (exit, code.as_str()));
            assert!(
                failure.help.contains(&format!("deploy/runbooks/{code}.md")),
                "{}",
                failure.help
            );
        }
    }
}
