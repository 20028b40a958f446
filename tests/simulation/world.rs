//! The world the simulated calls act on: what was done, under which key, and answers that get lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use kernel::{
    Answer, CallFault, Consequence, Decoder, Effect, Fault, FaultCode, Found, Pending, RawRecord, Rejected, Replay,
    Sink, Tool,
};
use runtime::sim::{Cluster, Rng};
use schemas::records::Call;
use serde_json::{Value, json};

use super::mutants::Mutant;

/// What was done under one idempotency key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deed {
    pub(crate) times: usize,
    pub(crate) replay_safe: bool,
    pub(crate) asked: bool,
    pub(crate) tenant: String,
}

/// Everything done, by idempotency key.
#[derive(Clone)]
pub(crate) struct World {
    seed: u64,
    /// How often an answer goes wrong, times in a thousand.
    pub(crate) trouble: u64,
    mutant: Option<Mutant>,
    deeds: Arc<Mutex<BTreeMap<String, Deed>>>,
}

impl World {
    pub(crate) fn new(seed: u64, trouble: u64, mutant: Option<Mutant>) -> Self {
        Self {
            seed,
            trouble,
            mutant,
            deeds: Arc::default(),
        }
    }

    pub(crate) fn deeds(&self) -> BTreeMap<String, Deed> {
        self.deeds.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Chance that depends on the call alone, so that a disturbed run meets the same world as an undisturbed one.
    fn draw(&self, call: &Call) -> Rng {
        let text = format!("{}:{}:{}", self.seed, call.idempotency_key, call.attempt);
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        Rng::of(hash)
    }

    pub(super) fn act(&self, call: &Call) -> usize {
        let mut deeds = self.deeds.lock().unwrap_or_else(PoisonError::into_inner);
        let deed = deeds.entry(call.idempotency_key.clone()).or_default();
        deed.times += 1;
        deed.replay_safe = call.replay_safe;
        deed.tenant.clone_from(&call.tenant);
        deed.times
    }
}

fn fault(code: FaultCode, effect: Effect) -> CallFault {
    CallFault {
        fault: Fault::new(code, "simulated"),
        effect,
    }
}

/// A tool whose effects are entries in the world.
pub(crate) struct SimTool {
    pub(crate) name: &'static str,
    pub(crate) world: World,
}

impl Tool for SimTool {
    fn name(&self) -> &'static str {
        self.name
    }

    fn check(&self, _: &str, _: &Value) -> Result<(), Fault> {
        Ok(())
    }

    fn replay(&self, call: &Call) -> Replay {
        if self.world.mutant == Some(Mutant::BlindRepeat) {
            return Replay::Safe;
        }
        match (call.replay_safe, self.name) {
            (true, _) => Replay::Safe,
            (false, "terraform") => Replay::AskFirst,
            (false, _) => Replay::Never,
        }
    }

    fn consequence(&self, _operation: &str, _arguments: &Value) -> Consequence {
        Consequence::Lasting
    }

    fn rehearsal(&self, _operation: &str, _arguments: &Value) -> Option<(String, Value)> {
        None
    }

    fn interrupt(&self, _call: &Call) -> bool {
        false
    }

    fn call<'a>(&'a self, call: &'a Call) -> Pending<'a, Result<Answer, CallFault>> {
        Box::pin(async move {
            let mut rng = self.world.draw(call);
            // Some are slow: others wait in line behind them, and partitions go while they are under way.
            let slow = rng.chance(300);
            let take_time = async |rng: &mut Rng, usual| {
                for _ in 0..rng.below(if slow { 120 } else { usual }) {
                    tokio::task::yield_now().await;
                }
            };
            take_time(&mut rng, 4).await;
            let trouble = rng.chance(self.world.trouble);
            let kind = rng.below(3);
            if trouble && kind == 0 {
                return Err(fault(FaultCode::ToolUnreachable, Effect::None));
            }
            if trouble && kind == 1 {
                return Err(fault(FaultCode::ToolUnreachable, Effect::Unknown));
            }
            if self.world.mutant != Some(Mutant::CallBeforeIntent) {
                self.world.act(call);
            }
            take_time(&mut rng, 3).await;
            if trouble {
                return Err(fault(FaultCode::ToolUnreachable, Effect::Unknown));
            }
            Ok(Answer {
                result: json!({"status": 200, "body": {}}),
                cost_micros_usd: 0,
            })
        })
    }

    fn find<'a>(&'a self, call: &'a Call) -> Pending<'a, Result<Found, Fault>> {
        Box::pin(async move {
            let mut deeds = self.world.deeds.lock().unwrap_or_else(PoisonError::into_inner);
            let deed = deeds.entry(call.idempotency_key.clone()).or_default();
            deed.asked = true;
            Ok(if deed.times > 0 {
                Found::Happened(Answer {
                    result: json!({"status": 200, "body": {}}),
                    cost_micros_usd: 0,
                })
            } else {
                Found::DidNot
            })
        })
    }
}

/// What a store holds, by topic, partition and offset.
pub(crate) type Kept = Arc<Mutex<BTreeMap<(String, i32, i64), Vec<u8>>>>;

/// A sink whose store is a map. It falters before and after it has kept a batch.
pub(crate) struct SimSink {
    pub(crate) cluster: Cluster,
    pub(crate) kept: Kept,
}

pub(crate) const KEPT_TOPICS: [&str; 3] = ["soma.runs", "soma.memories", "soma.events"];

impl Sink for SimSink {
    fn name(&self) -> &'static str {
        "store"
    }

    fn topics(&self) -> Vec<&'static str> {
        KEPT_TOPICS.to_vec()
    }

    fn write<'a>(
        &'a mut self,
        batch: &'a [RawRecord],
        _: &'a dyn Decoder,
    ) -> Pending<'a, Result<Vec<Rejected>, Fault>> {
        Box::pin(async move {
            if self.cluster.store_is_down() {
                return Err(Fault::new(FaultCode::StoreUnavailable, "simulated"));
            }
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            for record in batch {
                let at = &record.position;
                let value = record.value.clone().unwrap_or_default();
                kept.insert((at.topic.to_string(), at.partition, at.offset), value);
            }
            if self.cluster.store_is_down() {
                return Err(Fault::new(
                    FaultCode::StoreUnavailable,
                    "simulated: kept, and not answered",
                ));
            }
            Ok(Vec::new())
        })
    }

    fn reassigned(&mut self) {}
}
