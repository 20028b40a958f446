//! Who a consumer is in its group, which the client's crate keeps to itself. Sound: the client lives as long as the reference; what it
//! hands out is its caller's, read at once and given back once, and its text is copied before that.
#![allow(unsafe_code)]

use std::ffi::CStr;

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};

/// A member of a group, as the group's coordinator knows it.
pub(crate) struct Who {
    pub(super) generation: i32,
    pub(super) member: String,
}

/// `None` of a consumer that is no member, or not any more.
pub(crate) fn who<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<Who> {
    // SAFETY: as above; the text is there and ends as C's does, and lives as long as `told`.
    let found = unsafe {
        let told = native::rd_kafka_consumer_group_metadata(consumer.client().native_ptr());
        if told.is_null() {
            return None;
        }
        let member = native::rd_kafka_consumer_group_metadata_member_id(told);
        let member = (!member.is_null()).then(|| CStr::from_ptr(member).to_string_lossy().into_owned());
        let generation = native::rd_kafka_consumer_group_metadata_generation_id(told);
        native::rd_kafka_consumer_group_metadata_destroy(told);
        Who {
            generation,
            member: member.unwrap_or_default(),
        }
    };
    (found.generation >= 0 && !found.member.is_empty()).then_some(found)
}
