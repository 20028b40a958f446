//! Control records, one a line, as JSON or as hex of Avro: bytes that are no control change nothing, a resume lifts its own
//! scope only, and a kill that stands covers what it names.
#![no_main]

use kernel::controls::{Controls, Covers, is_alone, key_of};
use libfuzzer_sys::fuzz_target;
use schemas::Record;
use schemas::records::{Control, ControlAction, Scope};

fn standing(controls: &Controls) -> Vec<(String, ControlAction)> {
    controls.all().map(|c| (key_of(c.scope, &c.target), c.action)).collect()
}

fuzz_target!(|data: &[u8]| {
    let mut controls = Controls::default();
    for line in data.split(|b| *b == b'\n') {
        let control = match fuzz::from_text::<Control>(line) {
            Some(control) => control,
            None => match fuzz::record::<Control>(line) {
                Some(control) => control,
                None => continue,
            },
        };
        let bytes = control.to_avro().expect("a control can be written");
        assert_eq!(Control::from_avro(Control::schema(), &bytes).as_ref(), Ok(&control));
        let (before, key) = (standing(&controls), key_of(control.scope, &control.target));
        controls.apply(control.clone());
        let after = standing(&controls);
        let others = |all: &[(String, ControlAction)]| all.iter().filter(|c| c.0 != key).cloned().collect::<Vec<_>>();
        assert_eq!(others(&before), others(&after));
        let stands = after.iter().find(|c| c.0 == key).map(|c| c.1);
        // One person alone holds everything and ends nothing, and weakens no end that two asked for.
        let ended = before.iter().find(|c| c.0 == key && matches!(c.1, ControlAction::Kill | ControlAction::Cancel));
        let action = match (is_alone(&control), ended) {
            (true, Some((_, stands))) => *stands,
            (true, None) => ControlAction::Pause,
            (false, _) => control.action,
        };
        let wanted = (action != ControlAction::Resume).then_some(action);
        assert_eq!(stands, wanted);
        let target = control.target.as_str();
        let covers = match control.scope {
            Scope::Global => Covers::default(),
            Scope::Tenant => Covers { tenant: target, ..Covers::default() },
            Scope::Capsule => Covers { capsule: target, ..Covers::default() },
            Scope::Tool => Covers { tool: target, ..Covers::default() },
            Scope::Run => Covers { run_id: target, ..Covers::default() },
        };
        let names = control.scope == Scope::Global || !target.is_empty();
        if action == ControlAction::Kill && names {
            assert_eq!(controls.covering(covers).map(|c| c.action), Some(ControlAction::Kill));
        }
    }
});
