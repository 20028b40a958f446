//! Our own stage: the production loop and log around a processor that passes each key on once.

use kernel::{Delivery, Effects, Fault, Processor};
use runtime::{Limits, Part, ProcessorStage, Stage};
use schemas::records::Event;
use schemas::topics::Topic;

use super::{Contestant, INPUT, output};
use crate::common::{brokers, registry, surroundings, text, tokio};

kernel::inputs! {
    /// What a hop reads.
    pub enum Input {
        Event(Event) = INPUT,
    }
}

struct Hop {
    out: Topic<Event>,
}

impl Processor for Hop {
    type In = Input;
    /// Whether the key has been passed on.
    type State = bool;

    fn name(&self) -> &'static str {
        "hop"
    }

    fn step(&self, seen: &mut bool, input: &Delivery<Input>, fx: &mut Effects<'_>) -> Result<(), Fault> {
        let Input::Event(event) = &input.input;
        if std::mem::replace(seen, true) {
            return Ok(());
        }
        fx.emit(self.out, input.key.as_str(), &event.tenant, event.as_ref())
    }
}

/// Runs until it is killed.
pub(crate) fn run(options: &Contestant) -> Result<String, String> {
    let runtime = tokio()?;
    let registry = registry(&options.registry, &runtime)?;
    let limits = Limits {
        batch_max: options.batch,
        linger_ms: options.linger_ms,
        ..Limits::default()
    };
    let names = (options.name.as_str(), INPUT.name);
    let mut cx = surroundings(&brokers(&options.brokers), &registry, &runtime, names, limits)?;
    // A typed topic's name is a constant of its program; this one comes from the command line, once.
    let hop = Hop {
        out: Topic::new(Box::leak(output(&options.name).into_boxed_str())),
    };
    let member = Part::new("hop", format!("{}.state", options.name), hop, None);
    let mut stage = ProcessorStage::new("bench", vec![Box::new(member)]);
    stage.run(&mut cx).map_err(text)?;
    Ok(String::new())
}
