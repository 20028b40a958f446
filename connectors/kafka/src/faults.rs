//! Kafka's errors as faults, by blame.

use kernel::{Fault, FaultCode};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// The broker did not do what was asked; waiting helps.
pub(crate) fn unavailable(what: &str, e: &KafkaError) -> Fault {
    Fault::new(FaultCode::BrokerUnavailable, format!("{what}: {e}"))
}

/// Whether another living instance joined the group under our name.
pub(crate) fn is_fenced(e: &KafkaError) -> bool {
    matches!(
        code(e),
        Some(RDKafkaErrorCode::FencedInstanceId | RDKafkaErrorCode::Fatal)
    )
}

/// Whether the brokers complain of a topic.
pub(crate) fn is_of_topic(e: &KafkaError) -> bool {
    use RDKafkaErrorCode::{InvalidTopic, TopicAuthorizationFailed, UnknownTopic, UnknownTopicOrPartition};
    matches!(
        code(e),
        Some(InvalidTopic | TopicAuthorizationFailed | UnknownTopic | UnknownTopicOrPartition)
    )
}

/// Whether a record is too large for its topic.
pub(crate) fn is_too_large(e: &KafkaError) -> bool {
    matches!(
        code(e),
        Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize)
    )
}

fn code(e: &KafkaError) -> Option<RDKafkaErrorCode> {
    match e {
        KafkaError::Transaction(t) => Some(t.code()),
        other => other.rdkafka_error_code(),
    }
}
