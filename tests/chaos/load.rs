//! Steady load: requests of every kind, produced again under the same key until the log has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kafka::Writer;
use schemas::records::Request;
use schemas::topics;

use crate::live::harness::{Live, request, unique};

pub(super) struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Request>>,
}

/// What is asked for: the name of this load, the number of the request, the receiving server.
pub(super) type One = fn(&str, usize, &str) -> Request;

pub(super) fn every_kind(tag: &str, n: usize, receiver: &str) -> Request {
    let key = format!("{tag}-{n}");
    let tenant = ["chaos-a", "chaos-b", "chaos-c"][n % 3];
    // The name is in the path: the receiver's log says whose call it was.
    let url = format!("{receiver}/ok?{key}");
    match n % 100 {
        50 => request(
            tenant,
            &key,
            "service_rollout",
            &[("service", &format!("svc-{key}")), ("replicas", "2")],
        ),
        x if x % 10 < 4 => request(tenant, &key, "http_call", &[("url", &url), ("body", "{}")]),
        x if x % 10 < 7 => request(
            tenant,
            &key,
            "http_call",
            &[("url", &url), ("body", "{}"), ("idempotent", "true")],
        ),
        _ => request(tenant, &key, "endpoint_probe", &[("url", &url)]),
    }
}

/// Waits until the log has every one of them; whoever is sent twice has the same key twice.
fn send(writer: &Writer, requests: &[Request]) {
    loop {
        let written = requests.iter().try_for_each(|r| {
            let key = format!("{}:{}", r.tenant, r.idempotency_key);
            writer.write(topics::REQUESTS, &key, &r.tenant, r, None)
        });
        match written.and_then(|()| writer.flush()) {
            Ok(()) => return,
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

impl Load {
    /// `rate` a second, in portions of every `tick`.
    pub(super) fn start(live: &'static Live, rate: u64, tick: Duration, one: One) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let (tag, receiver, writer) = (unique("chaos"), live.receiver(), live.writer());
            let mut asked: Vec<Request> = Vec::new();
            let began = Instant::now();
            while !told.load(Ordering::SeqCst) {
                let due = u64::try_from(began.elapsed().as_millis()).unwrap() * rate / 1000;
                let due = usize::try_from(due).unwrap();
                // After an outage of the broker the rest comes at once, as from clients that waited.
                let fresh: Vec<_> = (asked.len()..due).map(|n| one(&tag, n, &receiver)).collect();
                send(&writer, &fresh);
                asked.extend(fresh);
                std::thread::sleep(tick);
            }
            asked
        });
        Self { stop, thread }
    }

    pub(super) fn stop(self) -> Vec<Request> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}
