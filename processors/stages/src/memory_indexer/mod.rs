//! Turns what came of calls into memories: one readable sentence each, with facts to filter by. Embedding the text and
//! keeping it is the sinks' work; deciding what is worth recalling is not here either.

use std::collections::BTreeMap;

use kernel::{Delivery, Effects, Fault, FaultCode, Processor};
use schemas::digest;
use schemas::records::{CallKind, Memory, MemoryKind, Outcome, OutcomeStatus};
use schemas::topics::{self, OUTCOMES};
use serde_json::Value;

kernel::inputs! {
    /// What the memory indexer reads.
    pub enum Input {
        Outcome(Outcome) = OUTCOMES,
    }
}

/// Longest text of a memory, characters.
const TEXT_CHARS_MAX: usize = 600;
/// Longest goal within it, characters.
const GOAL_CHARS_MAX: usize = 160;
/// Longest single value of a result within it, characters.
const VALUE_CHARS_MAX: usize = 120;
/// How deep into a result the text looks.
const DEPTH_MAX: usize = 4;

/// The memory indexer.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryIndexer;

impl MemoryIndexer {
    /// A memory indexer.
    pub fn new() -> Self {
        Self
    }
}

impl Processor for MemoryIndexer {
    type In = Input;
    type State = ();

    fn name(&self) -> &'static str {
        "memory_indexer"
    }

    fn step(&self, (): &mut (), input: &Delivery<Input>, fx: &mut Effects<'_>) -> Result<(), Fault> {
        let Input::Outcome(outcome) = &input.input;
        for (field, value) in [
            ("call_id", &outcome.call_id),
            ("run_id", &outcome.run_id),
            ("tenant", &outcome.tenant),
        ] {
            if value.is_empty() {
                let detail =
                    format!("field `{field}` of the outcome is empty; a memory belongs to a tenant, a run and a call");
                return Err(Fault::new(FaultCode::RecordInvalid, detail));
            }
        }
        // A refused call was not even tried: there is nothing to remember but a verdict, which has its own topic.
        if outcome.status == OutcomeStatus::Refused {
            return Ok(());
        }
        let memory = remember(outcome);
        let key = format!("{}:{}", memory.tenant, memory.memory_id);
        fx.emit(topics::MEMORIES, key, &memory.tenant, &memory)?;
        let facts = [
            ("memory_id", memory.memory_id.as_str()),
            ("tool", &outcome.tool),
            ("status", status_word(outcome.status)),
        ];
        fx.event(&memory.tenant, &memory.run_id, "memory.indexed", &facts)
    }
}

fn remember(outcome: &Outcome) -> Memory {
    let facts = [
        ("tool", outcome.tool.as_str()),
        ("operation", &outcome.operation),
        ("capsule", outcome.capsule.as_deref().unwrap_or_default()),
        ("status", status_word(outcome.status)),
        ("run_id", &outcome.run_id),
        ("step_id", &outcome.step_id),
    ];
    Memory {
        memory_id: digest::id("mem", &[&outcome.call_id]),
        tenant: outcome.tenant.clone(),
        run_id: outcome.run_id.clone(),
        step_id: outcome.step_id.clone(),
        kind: MemoryKind::Outcome,
        text: sentence(outcome),
        attributes: facts
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect::<BTreeMap<_, _>>(),
        created_at: outcome.finished_at,
        expires_at: None,
    }
}

fn status_word(status: OutcomeStatus) -> &'static str {
    match status {
        OutcomeStatus::Succeeded => "SUCCEEDED",
        OutcomeStatus::Failed => "FAILED",
        OutcomeStatus::Unknown => "UNKNOWN",
        OutcomeStatus::Refused => "REFUSED",
        OutcomeStatus::Compensated => "COMPENSATED",
    }
}

/// For example: `Roll out shop (service_rollout@1): step apply, terraform apply, succeeded with applied true, add 1.`
fn sentence(outcome: &Outcome) -> String {
    let mut text = match outcome.goal.trim() {
        "" => "A run".to_owned(),
        goal => cut(goal.trim_end_matches('.'), GOAL_CHARS_MAX),
    };
    if let Some(capsule) = &outcome.capsule {
        text.push_str(&format!(" ({capsule})"));
    }
    let part = if outcome.kind == CallKind::Compensation {
        "compensation of step"
    } else {
        "step"
    };
    text.push_str(&format!(
        ": {part} {}, {} {}, ",
        outcome.step_id, outcome.tool, outcome.operation
    ));
    text.push_str(match outcome.status {
        OutcomeStatus::Succeeded => "succeeded",
        OutcomeStatus::Failed => "failed",
        OutcomeStatus::Unknown => "may or may not have happened",
        OutcomeStatus::Refused => "was refused",
        OutcomeStatus::Compensated => "undid the step",
    });
    if outcome.attempt > 1 {
        text.push_str(&format!(" at attempt {}", outcome.attempt));
    }
    match &outcome.fault {
        Some(fault) => text.push_str(&format!(" because of {}: {}", fault.code, fault.detail.trim())),
        None => {
            let facts = salient(&outcome.result);
            if !facts.is_empty() {
                text.push_str(&format!(" with {facts}"));
            }
        }
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut text = cut(&text, TEXT_CHARS_MAX - 1);
    if !text.ends_with(['.', '…']) {
        text.push('.');
    }
    text
}

/// The leaves of a result as `name value`, outermost first: what is near the top says most.
fn salient(result: &str) -> String {
    let Ok(value) = serde_json::from_str::<Value>(result) else {
        return cut(result.trim(), TEXT_CHARS_MAX);
    };
    let mut leaves = Vec::new();
    collect(&value, "", 0, &mut leaves);
    // Stable: within one depth the result's own order stays.
    leaves.sort_by_key(|(depth, _)| *depth);
    leaves
        .into_iter()
        .map(|(_, words)| words)
        .collect::<Vec<_>>()
        .join(", ")
}

fn collect(value: &Value, name: &str, depth: usize, leaves: &mut Vec<(usize, String)>) {
    let under = |key: &str| {
        if name.is_empty() {
            key.to_owned()
        } else {
            format!("{name}.{key}")
        }
    };
    match value {
        Value::Null => {}
        Value::Object(fields) if depth < DEPTH_MAX => {
            fields
                .iter()
                .for_each(|(key, field)| collect(field, &under(key), depth + 1, leaves));
        }
        Value::Array(items) if depth < DEPTH_MAX => {
            items
                .iter()
                .take(5)
                .enumerate()
                .for_each(|(nth, item)| collect(item, &under(&nth.to_string()), depth + 1, leaves));
        }
        Value::Object(_) | Value::Array(_) => {}
        Value::String(text) if text.trim().is_empty() => {}
        Value::String(text) => leaves.push((
            depth,
            format!("{name} {}", cut(text.trim(), VALUE_CHARS_MAX))
                .trim()
                .to_owned(),
        )),
        other => leaves.push((depth, format!("{name} {other}").trim().to_owned())),
    }
}

/// At most so many characters; an ellipsis says that there was more.
fn cut(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        None => text.to_owned(),
        Some(_) => text
            .chars()
            .take(chars_max.saturating_sub(1))
            .chain(std::iter::once('…'))
            .collect(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use kernel::controls::Controls;
    use kernel::{Emit, Headers, Position};
    use schemas::records::{Event, FaultInfo};
    use schemas::{Record, Timestamp};

    use super::*;

    fn outcome() -> Outcome {
        Outcome {
            call_id: "call_1".into(),
            run_id: "run_1".into(),
            tenant: "acme".into(),
            goal: "Roll out shop".into(),
            capsule: Some("service_rollout@1".into()),
            step_id: "apply".into(),
            tool: "terraform".into(),
            operation: "apply".into(),
            attempt: 1,
            result: r#"{"add":1,"applied":true,"none":null,"outputs":{"url":"shop.json"}}"#.into(),
            finished_at: Timestamp(5),
            ..Outcome::default()
        }
    }

    fn index(outcome: Outcome) -> Result<Vec<Emit>, Fault> {
        let controls = Controls::default();
        let mut fx = Effects::new(Timestamp(9), "run_1", "soma.outcomes/0@1", &controls);
        let input = Delivery {
            key: outcome.run_id.clone(),
            input: Input::Outcome(Box::new(outcome)),
            position: Position::default(),
            headers: Headers::default(),
            at: Timestamp(9),
        };
        MemoryIndexer::new().step(&mut (), &input, &mut fx).map(|()| fx.emits)
    }

    fn memory(outcome: Outcome) -> Memory {
        Memory::from_avro(Memory::schema(), &index(outcome).unwrap()[0].avro).unwrap()
    }

    #[test]
    fn a_success_becomes_one_sentence_with_facts() {
        let emits = index(outcome()).unwrap();
        let made = memory(outcome());
        assert_eq!(
            made.text,
            "Roll out shop (service_rollout@1): step apply, terraform apply, succeeded with add 1, applied true, outputs.url shop.json."
        );
        assert_eq!(made.memory_id, digest::id("mem", &["call_1"]));
        assert_eq!(
            (emits[0].topic, emits[0].key.clone()),
            ("soma.memories", format!("acme:{}", made.memory_id))
        );
        assert_eq!(
            (made.attributes["status"].as_str(), made.attributes["run_id"].as_str()),
            ("SUCCEEDED", "run_1")
        );
        assert_eq!((made.created_at, made.attributes.len()), (Timestamp(5), 6));
        let event = Event::from_avro(Event::schema(), &emits[1].avro).unwrap();
        assert_eq!(
            (event.kind.as_str(), event.payload["memory_id"].as_str()),
            ("memory.indexed", made.memory_id.as_str())
        );
    }

    #[test]
    fn failures_say_why_and_compensations_what_they_undid() {
        let fault = FaultInfo {
            code: "TOOL_TIMED_OUT".into(),
            detail: "no answer in 5 s".into(),
            retryable: true,
        };
        let failed = Outcome {
            status: OutcomeStatus::Failed,
            fault: Some(fault.clone()),
            attempt: 2,
            ..outcome()
        };
        assert!(
            memory(failed)
                .text
                .ends_with("failed at attempt 2 because of TOOL_TIMED_OUT: no answer in 5 s.")
        );
        let unknown = Outcome {
            status: OutcomeStatus::Unknown,
            fault: Some(fault),
            ..outcome()
        };
        assert!(memory(unknown).text.contains("may or may not have happened"));
        let undone = Outcome {
            status: OutcomeStatus::Compensated,
            kind: CallKind::Compensation,
            result: String::new(),
            goal: String::new(),
            capsule: None,
            ..outcome()
        };
        assert_eq!(
            memory(undone).text,
            "A run: compensation of step apply, terraform apply, undid the step."
        );
    }

    #[test]
    fn texts_are_bounded_and_odd_results_are_taken() {
        let long = format!(
            r#"{{"body":"{}","n":[{}]}}"#,
            "é".repeat(5000),
            vec!["7"; 900].join(",")
        );
        for result in [long.as_str(), &"x".repeat(9000), "\"just text\"", "7", "", "[]", "{{{"] {
            let made = memory(Outcome {
                result: result.to_owned(),
                goal: "g".repeat(2000),
                ..outcome()
            });
            assert!(
                made.text.chars().count() <= TEXT_CHARS_MAX,
                "{}",
                made.text.chars().count()
            );
        }
        assert!(
            memory(Outcome {
                result: "\"just text\"".into(),
                ..outcome()
            })
            .text
            .ends_with("succeeded with just text.")
        );
    }

    #[test]
    fn a_refused_call_is_not_remembered_and_a_bad_record_is_named() {
        assert!(
            index(Outcome {
                status: OutcomeStatus::Refused,
                ..outcome()
            })
            .unwrap()
            .is_empty()
        );
        let fault = index(Outcome {
            tenant: String::new(),
            ..outcome()
        })
        .unwrap_err();
        assert_eq!(fault.code, FaultCode::RecordInvalid);
        assert!(fault.detail.contains("field `tenant`"), "{}", fault.detail);
    }

    #[test]
    fn the_same_outcome_gives_the_same_memory() {
        assert_eq!(memory(outcome()), memory(outcome()));
    }
}
