//! What mends a crash of librdkafka 2.12.1 (its issue 5280), until a release does: a broker that hands its partitions over, or goes down, may answer a
//! fetch with the new leaders of some partitions and "none yet" of others. Its client makes a list with room for all of them, fills in those
//! with a leader, and then reads all: what stood in that memory before is taken for a partition's number (SIGSEGV in
//! `rd_kafka_metadata_update_op`; seen in `make chaos` when the broker goes down).
//!
//! The linker gives every call of the function that makes this list to the one below (`build.rs` of the crates that are linked with this one), which
//! numbers the places as no partition is: those that nobody fills in are passed over with a line of the log.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};

use rdkafka::bindings::{rd_kafka_metadata, rd_kafka_metadata_partition};

/// A topic's id, as librdkafka has it; passed on unread.
#[repr(C)]
#[derive(Clone, Copy)]
struct TopicId {
    bits: [i64; 2],
    base64: [c_char; 23],
}

type SetTopic = unsafe extern "C" fn(*mut c_void, *mut rd_kafka_metadata, c_int, TopicId, *mut c_char, c_int);

unsafe extern "C" {
    /// The client's own.
    fn __real_rd_kafkap_leader_discovery_set_topic(
        memory: *mut c_void,
        list: *mut rd_kafka_metadata,
        topic: c_int,
        id: TopicId,
        name: *mut c_char,
        partitions: c_int,
    );
}

/// In the place of the client's own: makes room for so many partitions of a topic.
///
/// # Safety
/// As the client's own: `memory` has room for the partitions, `list` more topics than `topic`.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_rd_kafkap_leader_discovery_set_topic(
    memory: *mut c_void,
    list: *mut rd_kafka_metadata,
    topic: c_int,
    id: TopicId,
    name: *mut c_char,
    partitions: c_int,
) {
    // SAFETY: the arguments are passed on as they came. Afterwards the topic has an array of so many partitions, of plain numbers and pointers
    // that nobody follows unless the place is filled in.
    unsafe {
        __real_rd_kafkap_leader_discovery_set_topic(memory, list, topic, id, name, partitions);
        let (Ok(topic), Ok(partitions)) = (usize::try_from(topic), usize::try_from(partitions)) else {
            return;
        };
        let places: *mut rd_kafka_metadata_partition = (*(*list).topics.add(topic)).partitions;
        for n in 0..partitions {
            (*places.add(n)).id = i32::MAX;
        }
    }
}

/// Called by whoever makes a client: a linker that reads its files once must have met the function before librdkafka asks for it.
pub(crate) fn linked() {
    let function: SetTopic = __wrap_rd_kafkap_leader_discovery_set_topic;
    std::hint::black_box(function);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// librdkafka's `rd_tmpabuf_t`.
    #[repr(C)]
    struct Memory {
        size: usize,
        used: usize,
        bytes: *mut u64,
        failed: c_int,
        assert_on_fail: u8,
    }

    /// Its `rd_kafka_metadata_internal_t`, as far as it is written to.
    #[repr(C)]
    struct List {
        public: rd_kafka_metadata,
        unread: [*mut c_void; 2],
        topics: *mut c_void,
    }

    unsafe extern "C" {
        fn rd_kafkap_leader_discovery_set_topic(
            memory: *mut c_void,
            list: *mut rd_kafka_metadata,
            topic: c_int,
            id: TopicId,
            name: *mut c_char,
            partitions: c_int,
        );
    }

    #[test]
    fn a_place_nobody_fills_in_is_no_partition() {
        let id = TopicId {
            bits: [0; 2],
            base64: [0; 23],
        };
        // What stood there before: partition 1 of a broker that exists.
        let mut bytes = vec![0x0000_0001_0000_0001_u64; 256];
        let mut memory = Memory {
            size: bytes.len() * 8,
            used: 0,
            bytes: bytes.as_mut_ptr(),
            failed: 0,
            assert_on_fail: 1,
        };
        let mut public_topics = vec![0_u64; 8];
        let mut own_topics = vec![0_u64; 16];
        // SAFETY: all zero is a list of nothing.
        let mut list: List = unsafe { std::mem::zeroed() };
        list.public.topics = public_topics.as_mut_ptr().cast();
        list.topics = own_topics.as_mut_ptr().cast();
        // SAFETY: the memory has room for three partitions, the list for one topic.
        let ids = unsafe {
            rd_kafkap_leader_discovery_set_topic(
                (&raw mut memory).cast(),
                (&raw mut list).cast(),
                0,
                id,
                std::ptr::null_mut(),
                3,
            );
            let topic = &*list.public.topics;
            assert_eq!(topic.partition_cnt, 3);
            [0, 1, 2].map(|n| (*topic.partitions.add(n)).id)
        };
        assert_eq!(ids, [i32::MAX; 3], "the linker did not put our function in its place");
    }
}
