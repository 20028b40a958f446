//! The only unsafe code here: takes all messages that are there from the queue of one partition at once. The client's crate gives them
//! one by one, each as an event of its own, which costs more than what a streaming query does with them (`make bench-analytics`).
//!
//! librdkafka's other way, `rd_kafka_consume_batch_queue`, is not used: it takes the place where a partition ends, which comes as a message
//! too, for a record, and goes on behind it after the next rebalance: a record is skipped, or the topic read from its beginning.
//!
//! Why it is sound: the queue is this type's own reference, given back once, before the client it belongs to (`Bulk` holds that); a
//! message is looked at only while the client calls back; librdkafka's queues may be used from any thread. The bell a queue rings outlives
//! that: `Bulk` holds it too, and takes it from the queue, under the queue's lock, before it lets go. A panic in a call back ends the
//! process, as Rust does at every border to C.
#![allow(unsafe_code)]

use std::ffi::{CString, c_void};
use std::ptr::{NonNull, null_mut};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::{RDKafka, RDKafkaErrorCode, RDKafkaMessage, RDKafkaQueue, RDKafkaRespErr};

/// What was taken.
pub(crate) enum Taken<'a> {
    /// A record: its value, `None` of a tombstone; offset; milliseconds since 1970 of its stamp.
    Record(Option<&'a [u8]>, i64, i64),
    /// The partition has no more records for now.
    End,
    /// Something else.
    Failed(KafkaError),
}

/// Rung by queues that were empty and are not any more.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.heard.notify_one();
    }

    /// Waits until it is rung, or was since the last time; no longer than this.
    pub(crate) fn wait(&self, most: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.heard.wait_timeout_while(rung, most, |rung| !*rung);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}

/// The queue of a partition.
pub(crate) struct Bulk<C: ConsumerContext + 'static> {
    queue: NonNull<RDKafkaQueue>,
    /// What the queue rings; only held here.
    _bell: Arc<Bell>,
    consumer: Arc<BaseConsumer<C>>,
}

// SAFETY: librdkafka's queues are locked by themselves.
unsafe impl<C: ConsumerContext> Send for Bulk<C> {}

/// What a call back needs.
struct Call<'a> {
    each: &'a mut dyn FnMut(Taken<'_>) -> bool,
    client: *mut RDKafka,
}

impl<C: ConsumerContext> Bulk<C> {
    /// Takes a partition's queue out of the common one, and has it ring; `None` when the topic's name cannot be one.
    pub(crate) fn open(consumer: &Arc<BaseConsumer<C>>, topic: &str, partition: i32, bell: &Arc<Bell>) -> Option<Self> {
        let topic = CString::new(topic).ok()?;
        // SAFETY: the client lives as long as the `Arc`; the name is copied. The reference to the queue is ours to give back.
        let queue = unsafe {
            let client = consumer.client().native_ptr();
            let queue = native::rd_kafka_queue_get_partition(client, topic.as_ptr(), partition);
            let queue = NonNull::new(queue)?;
            native::rd_kafka_queue_forward(queue.as_ptr(), null_mut());
            let rung = Arc::as_ptr(bell).cast_mut().cast();
            native::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(ring), rung);
            queue
        };
        Some(Self {
            queue,
            _bell: Arc::clone(bell),
            consumer: Arc::clone(consumer),
        })
    }

    /// Shows what is there, in order, until `each` says that it is enough. Does not wait.
    pub(crate) fn take(&mut self, each: &mut dyn FnMut(Taken<'_>) -> bool) {
        let client = self.consumer.client().native_ptr();
        let mut call = Call { each, client };
        let call: *mut Call<'_> = &raw mut call;
        // SAFETY: the client calls back on this thread, and only until this returns: `call` outlives that.
        unsafe {
            native::rd_kafka_consume_callback_queue(self.queue.as_ptr(), 0, Some(taken), call.cast());
        }
    }
}

/// What the client calls when a queue is empty no more, on a thread of its own and holding the queue's lock.
///
/// # Safety
/// `bell` is the one of the `Bulk` whose queue this is.
unsafe extern "C" fn ring(_: *mut RDKafka, bell: *mut c_void) {
    // SAFETY: as the caller promises; `Bulk` holds the bell until the queue has forgotten it.
    unsafe { &*bell.cast::<Bell>().cast_const() }.ring();
}

/// What the client calls with each message.
///
/// # Safety
/// `call` is the `Call` of the `take` under way, and `message` is whole until this returns.
unsafe extern "C" fn taken(message: *mut RDKafkaMessage, call: *mut c_void) {
    // SAFETY: as the caller promises; nobody else has `call` meanwhile.
    unsafe {
        let call = &mut *call.cast::<Call<'_>>();
        if !(call.each)(read(message)) {
            // What is left goes back to the head of the queue.
            native::rd_kafka_yield(call.client);
        }
    }
}

/// What a message is.
///
/// # Safety
/// It was given by the client and is not given back while what is returned lives.
unsafe fn read<'a>(message: *mut RDKafkaMessage) -> Taken<'a> {
    // SAFETY: as the caller promises; the client tells payload and length of each other.
    unsafe {
        let given = &*message;
        if given.err != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return match RDKafkaErrorCode::from(given.err) {
                RDKafkaErrorCode::PartitionEOF => Taken::End,
                code => Taken::Failed(KafkaError::MessageConsumption(code)),
            };
        }
        // The mark of a transaction has no value either.
        let value = (!given.payload.is_null())
            .then(|| std::slice::from_raw_parts(given.payload.cast::<u8>().cast_const(), given.len));
        let at = native::rd_kafka_message_timestamp(message, null_mut());
        Taken::Record(value, given.offset, at.max(0))
    }
}

impl<C: ConsumerContext + 'static> Drop for Bulk<C> {
    fn drop(&mut self) {
        // SAFETY: our own reference, given back once; the queue itself lives on in the client, and rings nobody then.
        unsafe {
            native::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, null_mut());
            native::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}
