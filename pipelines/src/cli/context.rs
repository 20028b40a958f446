//! What every command is given: the environment, where Kafka and the registry are, the clock. And the reading of topics from
//! the beginning to the end that most commands need. Connects only when asked.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::{Brokers, From, Registry, Tail, Writer};
use kernel::{Blame, Clock, Fault, FaultCode, RawRecord};
use schemas::topics::Topic;
use schemas::{Record, Timestamp};
use tokio::runtime::{Builder, Runtime};

use super::failure::Failure;
use super::out;
use crate::apply;
use crate::config::Environment;

/// A broker that gives nothing for so long, though more is to come, is not answering.
const STALL: Duration = Duration::from_secs(15);
/// On a topic that is written to without pause its end is never seen; so many records younger than the question are enough.
const YOUNGER_MAX: usize = 2000;

/// Shared by all commands.
pub(super) struct Context {
    pub(super) env: Environment,
    pub(super) json: bool,
    runtime: OnceCell<Runtime>,
}

impl Context {
    pub(super) fn new(env: Environment, json: bool) -> Self {
        Self {
            env,
            json,
            runtime: OnceCell::new(),
        }
    }

    /// Where futures run; made when first needed.
    pub(super) fn runtime(&self) -> Result<&Runtime, Failure> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime);
        }
        let made = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let made = made.map_err(|e| Fault::new(FaultCode::Internal, format!("runtime: {e}")))?;
        Ok(self.runtime.get_or_init(|| made))
    }

    pub(super) fn brokers(&self) -> Result<Brokers, Failure> {
        Ok(apply::brokers(&self.env)?)
    }

    pub(super) fn registry(&self) -> Result<Arc<Registry>, Failure> {
        Ok(apply::registry_at(&self.env, self.runtime()?.handle().clone())?)
    }

    pub(super) fn writer(&self) -> Result<Writer, Failure> {
        Ok(Writer::open(&self.brokers()?, self.registry()?, "soma/cli")?)
    }

    /// Who acts: what was given, else the user of this shell, else the user of this process.
    pub(super) fn actor(&self, given: Option<&str>) -> Result<String, Failure> {
        let named = given
            .or_else(|| self.env.get("USER"))
            .or_else(|| self.env.get("LOGNAME"))
            .map(str::to_owned);
        // A shell without a login, as in a container, sets neither.
        let process = || {
            std::process::Command::new("id")
                .arg("-un")
                .output()
                .ok()
                .and_then(|o| String::from_utf8(o.stdout).ok())
        };
        named
            .or_else(process)
            .map(|who| who.trim().to_owned())
            .filter(|who| !who.is_empty())
            .ok_or_else(|| {
                Failure::input(
                    "ACTOR_MISSING",
                    "it is not known who decides: USER is not set",
                    "say it with --as NAME",
                )
            })
    }

    /// A variable that must be set.
    pub(super) fn variable(&self, name: &str) -> Result<String, Failure> {
        self.env.get(name).filter(|v| !v.is_empty()).map(str::to_owned).ok_or_else(|| {
            let help = "`make up` writes .soma/dev.env, which soma finds from here upwards; or use --env-file FILE, or set it";
            Failure::input("CONFIG_INVALID", format!("variable {name} is not set"), help)
        })
    }

    /// Every record of a topic that can be read, in order; others are noted and passed over, as the stages do.
    ///
    /// # Errors
    /// A server does not answer.
    pub(super) fn each<R: Record>(&self, topic: Topic<R>, take: &mut dyn FnMut(&RawRecord, R)) -> Result<(), Failure> {
        let registry = self.registry()?;
        let mut tail = Tail::open(&self.brokers()?, topic.name, From::Beginning)?;
        read_to_end(&mut tail, &mut |record| {
            match record
                .value
                .as_deref()
                .map(|value| kernel::decode::<R>(value, registry.as_ref()))
            {
                Some(Ok(read)) => take(&record, read),
                Some(Err(fault)) if fault.blame == Blame::Dependency => return Err(fault.into()),
                Some(Err(fault)) => out::note(format!("{} is unreadable and ignored: {fault}", record.position)),
                None => {}
            }
            Ok(true)
        })
    }

    /// Last record of each key that passes `keep`, tombstones taken out.
    pub(super) fn fold(
        &self,
        topic: &str,
        keep: &dyn Fn(&str) -> bool,
    ) -> Result<BTreeMap<String, RawRecord>, Failure> {
        let mut tail = Tail::open(&self.brokers()?, topic, From::Beginning)?;
        let mut last = BTreeMap::new();
        read_to_end(&mut tail, &mut |record| {
            if keep(&record.key) {
                fold_one(&mut last, record);
            }
            Ok(true)
        })?;
        Ok(last)
    }
}

/// Puts a record in place of the one before it; a tombstone takes it away.
pub(super) fn fold_one(last: &mut BTreeMap<String, RawRecord>, record: RawRecord) {
    if record.value.is_some() {
        last.insert(record.key.clone(), record);
    } else {
        last.remove(&record.key);
    }
}

/// Now, UTC.
pub(super) fn now() -> Timestamp {
    runtime::SystemClock.now()
}

/// Reads what was there when asked, until `each` says false.
///
/// # Errors
/// `BROKER_UNAVAILABLE` when the broker stops giving; what `each` returns.
pub(super) fn read_to_end(
    tail: &mut Tail,
    each: &mut dyn FnMut(RawRecord) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let asked = now();
    let (mut heard, mut younger) = (Instant::now(), 0);
    loop {
        match tail.next(100) {
            Ok(Some(record)) => {
                heard = Instant::now();
                younger = if record.at > asked { younger + 1 } else { 0 };
                if !each(record)? || younger > YOUNGER_MAX {
                    return Ok(());
                }
            }
            Ok(None) if tail.is_at_end() => return Ok(()),
            Ok(None) if heard.elapsed() > STALL => {
                let detail = format!("nothing came for {} s, though the end was not reached", STALL.as_secs());
                return Err(Fault::new(FaultCode::BrokerUnavailable, detail).into());
            }
            Ok(None) => {}
            // The client reconnects by itself; only an outage that lasts is reported.
            Err(fault) if heard.elapsed() > STALL => return Err(fault.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn folding_keeps_the_last_and_drops_tombstones() {
        let mut last = BTreeMap::new();
        for (key, value) in [
            ("a", Some(vec![1])),
            ("b", Some(vec![2])),
            ("a", Some(vec![3])),
            ("b", None),
        ] {
            fold_one(
                &mut last,
                RawRecord {
                    key: key.into(),
                    value,
                    ..RawRecord::default()
                },
            );
        }
        assert_eq!(last.len(), 1);
        assert_eq!(last["a"].value, Some(vec![3]));
    }

    #[test]
    fn what_is_missing_is_named() {
        let context = Context::new(Environment::of([("USER".to_owned(), "ada".to_owned())]), false);
        assert_eq!(context.actor(None).unwrap(), "ada");
        assert_eq!(context.actor(Some("bob")).unwrap(), "bob");
        assert!(context.variable("SOMA_X").unwrap_err().text.contains("SOMA_X"));
        assert!(
            Context::new(Environment::default(), false)
                .actor(Some(" "))
                .unwrap_err()
                .help
                .contains("--as")
        );
    }
}
