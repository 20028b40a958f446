//! What the live tests share: the environment of the running stack, producing, waiting, and reading topics back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use kafka::{Brokers, From, Registry, Tail, Writer};
use kernel::RawRecord;
use pipelines::config::Environment;
use schemas::records::{Request, Run, RunStatus};
use schemas::topics::{self, Topic};
use schemas::{Record, Timestamp, digest};

/// The running stack.
pub(crate) struct Live {
    pub(crate) env: Environment,
    pub(crate) home: PathBuf,
    pub(crate) soma: PathBuf,
    pub(crate) brokers: Brokers,
    pub(crate) registry: Arc<Registry>,
    /// Drives the registry's calls for as long as the tests run.
    runtime: tokio::runtime::Runtime,
}

/// The one stack of this test process.
pub(crate) fn live() -> &'static Live {
    static LIVE: OnceLock<Live> = OnceLock::new();
    LIVE.get_or_init(|| {
        let home = PathBuf::from(std::env::var("SOMA_HOME").expect("SOMA_HOME is not set: run `make live`"));
        let soma = PathBuf::from(std::env::var("SOMA_BIN").expect("SOMA_BIN is not set: run `make live`"));
        let env = Environment::load(Some(&home.join("dev.env"))).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let brokers = pipelines::apply::brokers(&env).unwrap();
        let registry = pipelines::apply::registry_at(&env, runtime.handle().clone()).unwrap();
        Live {
            env,
            home,
            soma,
            brokers,
            registry,
            runtime,
        }
    })
}

/// Microseconds since the epoch, now.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    Timestamp(i64::try_from(since.as_micros()).unwrap())
}

/// A name nobody used before.
pub(crate) fn unique(prefix: &str) -> String {
    format!("{prefix}-{}", now().0)
}

/// A request of a capsule.
pub(crate) fn request(tenant: &str, key: &str, capsule: &str, inputs: &[(&str, &str)]) -> Request {
    Request {
        tenant: tenant.into(),
        actor: "live-test".into(),
        idempotency_key: key.into(),
        goal: format!("live test {key}"),
        capsule: Some(capsule.into()),
        inputs: inputs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        requested_at: now(),
        ..Request::default()
    }
}

impl Live {
    pub(crate) fn handle(&self) -> tokio::runtime::Handle {
        self.runtime.handle().clone()
    }

    pub(crate) fn writer(&self) -> Writer {
        Writer::open(&self.brokers, self.registry.clone(), "soma/live-test").unwrap()
    }

    pub(crate) fn receiver(&self) -> String {
        self.env.get("SOMA_RECEIVER_URL").unwrap().to_owned()
    }

    /// Produces requests; their run ids.
    pub(crate) fn produce(&self, requests: &[Request]) -> Vec<String> {
        let writer = self.writer();
        for r in requests {
            writer
                .write(
                    topics::REQUESTS,
                    &format!("{}:{}", r.tenant, r.idempotency_key),
                    &r.tenant,
                    r,
                    None,
                )
                .unwrap();
        }
        writer.flush().unwrap();
        requests
            .iter()
            .map(|r| digest::run_id(&r.tenant, &r.idempotency_key))
            .collect()
    }

    pub(crate) fn soma(&self, args: &[&str]) -> Output {
        Command::new(&self.soma)
            .arg("--env-file")
            .arg(self.home.join("dev.env"))
            .args(args)
            .output()
            .unwrap()
    }

    /// The checkout.
    pub(crate) fn root(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
    }

    pub(crate) fn stack(&self, args: &[&str]) {
        let root = self.root();
        let (verb, rest) = args.split_first().unwrap();
        let done = Command::new("python3")
            .arg(root.join("deploy/dev/stack.py"))
            .arg(verb)
            .arg("--home")
            .arg(&self.home)
            .args(rest)
            .current_dir(root)
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "stack {args:?}: {}{}",
            text(&done.stdout),
            text(&done.stderr)
        );
    }

    /// Every record of a topic, to its present end.
    pub(crate) fn read_raw(&self, topic: &str) -> Vec<RawRecord> {
        let mut tail = Tail::open(&self.brokers, topic, From::Beginning).unwrap();
        let mut all = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !tail.is_at_end() {
            assert!(Instant::now() < deadline, "{topic} does not end");
            all.extend(tail.next(100).unwrap());
        }
        all
    }

    /// Every record of a topic, decoded.
    pub(crate) fn read<R: Record>(&self, topic: Topic<R>) -> Vec<R> {
        let raw = self.read_raw(topic.name);
        raw.iter()
            .filter_map(|r| r.value.as_ref())
            .map(|v| kernel::decode(v, self.registry.as_ref()).unwrap())
            .collect()
    }

    /// Waits until all these runs have ended; every state seen of each, in order.
    pub(crate) fn wait(&self, runs: &[String], limit: Duration) -> BTreeMap<String, Vec<Run>> {
        let wanted: BTreeSet<&String> = runs.iter().collect();
        let mut tail = Tail::open(&self.brokers, topics::RUNS.name, From::Beginning).unwrap();
        let mut seen: BTreeMap<String, Vec<Run>> = BTreeMap::new();
        // A killed run is published again, with the same end, when the fate of its open call is known.
        let mut ended: BTreeSet<String> = BTreeSet::new();
        let deadline = Instant::now() + limit;
        while ended.len() < wanted.len() {
            assert!(
                Instant::now() < deadline,
                "{} runs have not ended: {:#?}",
                wanted.len() - ended.len(),
                unfinished(&wanted, &seen)
            );
            let Ok(Some(record)) = tail.next(200) else { continue };
            let Some(value) = record.value else { continue };
            let run: Run = kernel::decode(&value, self.registry.as_ref()).unwrap();
            if wanted.contains(&run.run_id) {
                if run.finished_at.is_some() {
                    ended.insert(run.run_id.clone());
                }
                seen.entry(run.run_id.clone()).or_default().push(run);
            }
        }
        seen
    }

    /// Requests whose keys the receiving server logged: (idempotency key, method, uri), in order.
    pub(crate) fn receiver_log(&self) -> Vec<serde_json::Value> {
        let path = self.env.get("SOMA_RECEIVER_LOG").unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{l}: {e}")))
            .collect()
    }

    /// Dead letters of a topic whose key holds `part`.
    pub(crate) fn dead_letters(&self, topic: &str, part: &str) -> Vec<RawRecord> {
        self.read_raw(&topics::dlq_of(topic))
            .into_iter()
            .filter(|r| r.key.contains(part))
            .collect()
    }

    /// All dead letters of all topics.
    pub(crate) fn dead_total(&self) -> usize {
        let catalogue = topics::Catalogue::load().unwrap();
        catalogue
            .topics
            .iter()
            .map(|t| self.read_raw(&topics::dlq_of(&t.name)).len())
            .sum()
    }
}

fn unfinished<'a>(
    wanted: &BTreeSet<&'a String>,
    seen: &BTreeMap<String, Vec<Run>>,
) -> Vec<(&'a String, Option<RunStatus>)> {
    let last = |id: &String| seen.get(id).and_then(|r| r.last());
    wanted
        .iter()
        .filter(|id| last(id).is_none_or(|r| r.finished_at.is_none()))
        .map(|id| (*id, last(id).map(|r| r.status)))
        .take(10)
        .collect()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
