//! A dead letter: the original record and the headers that say where it came from and why. Reading and filtering letters, and
//! making the record that goes back; not the topics they lie on.

use kernel::controls::{Controls, Covers};
use kernel::{Headers, RawRecord};
use schemas::Timestamp;
use schemas::records::ControlAction;
use serde_json::Value as Json;

use super::{kinds, when};

/// Names which dead letter a replayed record was, so that the same letter is not replayed twice.
pub(super) const REPLAYED_FROM: &str = "soma-dlq-replayed-from";
const REPLAYS: &str = "soma-dlq-replays";

/// A dead letter, read from its headers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Letter {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) stage: String,
    pub(super) code: String,
    pub(super) detail: String,
    pub(super) attempts: u32,
    pub(super) replays: u32,
    pub(super) at: Timestamp,
    pub(super) record: RawRecord,
}

impl Letter {
    /// Reads the headers.
    ///
    /// # Errors
    /// The header that is missing or unreadable: then the runtime did not write it, and nobody can say where it belongs.
    pub(super) fn read(record: RawRecord) -> Result<Self, String> {
        let text = |name: &str| {
            record
                .headers
                .text(name)
                .ok_or_else(|| format!("header {name} is missing"))
                .map(str::to_owned)
        };
        let bad = |name: &str| format!("header {name} is not what the runtime writes");
        Ok(Self {
            topic: text("soma-dlq-topic")?,
            partition: text("soma-dlq-partition")?
                .parse()
                .map_err(|_| bad("soma-dlq-partition"))?,
            offset: text("soma-dlq-offset")?.parse().map_err(|_| bad("soma-dlq-offset"))?,
            stage: text("soma-dlq-stage")?,
            code: text("soma-dlq-code")?,
            detail: text("soma-dlq-detail").unwrap_or_default(),
            attempts: text("soma-dlq-attempts")
                .ok()
                .and_then(|n| n.parse().ok())
                .unwrap_or_default(),
            replays: match record.headers.text(REPLAYS) {
                Some(n) => n.parse().map_err(|_| bad(REPLAYS))?,
                None => 0,
            },
            at: text("soma-dlq-at")?.parse().map_err(|_| bad("soma-dlq-at"))?,
            record,
        })
    }

    /// Headers of the record that goes back: its own, one replay more, and which letter it was. Why it died is left behind.
    pub(super) fn replay_headers(&self) -> Headers {
        let mut headers = self.record.headers.filtered(|name| !name.starts_with("soma-dlq-"));
        headers.set(REPLAYS, (self.replays + 1).to_string());
        headers.set(REPLAYED_FROM, self.record.position.to_string());
        headers
    }

    /// The kill or cancel that covers the record; `value` is the decoded record, null when it cannot be decoded.
    pub(super) fn stopped_by(&self, controls: &Controls, value: &Json) -> Option<String> {
        let text = |field: &str| value[field].as_str().unwrap_or_default();
        let tenant = value["tenant"]
            .as_str()
            .or_else(|| self.record.headers.text("soma-tenant"))
            .unwrap_or_default();
        let run = match kinds::run_of(value) {
            run if run.is_empty() => self.record.key.clone(),
            run => run,
        };
        let steps = value["steps"].as_array().into_iter().flatten();
        let tools = steps.filter_map(|s| s["tool"].as_str()).chain([text("tool")]);
        let found = tools.filter_map(|tool| {
            controls.covering(Covers {
                tenant,
                capsule: text("capsule"),
                tool,
                run_id: &run,
            })
        });
        let control = found.max_by_key(|c| kernel::controls::strength(c.action))?;
        let ends = matches!(control.action, ControlAction::Kill | ControlAction::Cancel);
        (ends || controls.alone().next().is_some()).then(|| {
            let scope = kernel::controls::key_of(control.scope, &control.target);
            format!(
                "{} at {scope} by {}: {}",
                super::tree::word(&control.action),
                control.actor,
                control.reason
            )
        })
    }
}

/// Which letters are meant.
#[derive(clap::Args, Clone, Debug, Default)]
pub(super) struct Filter {
    /// Only records of this topic (with or without .dlq)
    #[arg(long)]
    pub(super) topic: Option<String>,
    /// Only those this stage could not take
    #[arg(long)]
    pub(super) stage: Option<String>,
    /// Only this fault code, for example RECORD_UNREADABLE
    #[arg(long)]
    pub(super) code: Option<String>,
    /// Only records whose key holds this
    #[arg(long)]
    pub(super) key: Option<String>,
    /// Only records written for this tenant
    #[arg(long)]
    pub(super) tenant: Option<String>,
    /// Only those since a time (RFC 3339) or a duration back from now (2h)
    #[arg(long, allow_hyphen_values = true, value_name = "WHEN")]
    pub(super) since: Option<String>,
}

impl Filter {
    /// The original topic asked for.
    pub(super) fn topic(&self) -> Option<&str> {
        self.topic.as_deref().map(|t| t.strip_suffix(".dlq").unwrap_or(t))
    }

    /// The time asked for.
    ///
    /// # Errors
    /// It is not a time.
    pub(super) fn since(&self, now: Timestamp) -> Result<Option<Timestamp>, String> {
        self.since.as_deref().map(|text| when::instant(text, now)).transpose()
    }

    pub(super) fn passes(&self, letter: &Letter, since: Option<Timestamp>) -> bool {
        self.topic().is_none_or(|t| t == letter.topic)
            && self.stage.as_ref().is_none_or(|s| *s == letter.stage)
            && self.code.as_ref().is_none_or(|c| c.eq_ignore_ascii_case(&letter.code))
            && self.key.as_ref().is_none_or(|k| letter.record.key.contains(k))
            && self
                .tenant
                .as_deref()
                .is_none_or(|t| letter.record.headers.text("soma-tenant") == Some(t))
            && since.is_none_or(|since| letter.at >= since)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use kernel::Position;
    use schemas::records::{Control, Scope};
    use serde_json::json;

    use super::*;

    fn raw(replays: &str) -> RawRecord {
        let mut headers = Headers::default();
        for (name, value) in [
            ("traceparent", "00-1-2-01"),
            ("soma-tenant", "acme"),
            ("soma-dlq-topic", "soma.plans"),
            ("soma-dlq-partition", "2"),
            ("soma-dlq-offset", "7"),
            ("soma-dlq-stage", "policy_gate"),
            ("soma-dlq-code", "RECORD_UNREADABLE"),
            ("soma-dlq-detail", "Plan: x"),
            ("soma-dlq-attempts", "1"),
            ("soma-dlq-at", "2026-01-31T12:00:00Z"),
            ("soma-dlq-replays", replays),
        ] {
            headers.set(name, value);
        }
        let position = Position {
            topic: "soma.plans.dlq".into(),
            partition: 0,
            offset: 3,
        };
        RawRecord {
            position,
            key: "run_1".into(),
            value: Some(vec![0, 1]),
            headers,
            ..RawRecord::default()
        }
    }

    #[test]
    fn a_letter_goes_back_with_its_own_headers_and_one_replay_more() {
        let letter = Letter::read(raw("1")).unwrap();
        assert_eq!(
            (letter.topic.as_str(), letter.partition, letter.offset, letter.replays),
            ("soma.plans", 2, 7, 1)
        );
        let headers = letter.replay_headers();
        assert_eq!(headers.text("soma-dlq-replays"), Some("2"));
        assert_eq!(headers.text(REPLAYED_FROM), Some("soma.plans.dlq/0@3"));
        assert_eq!(
            (headers.text("traceparent"), headers.text("soma-dlq-code")),
            (Some("00-1-2-01"), None)
        );
        assert_eq!(headers.iter().count(), 4);
    }

    #[test]
    fn a_letter_without_its_headers_is_refused_by_name() {
        for name in ["soma-dlq-topic", "soma-dlq-stage", "soma-dlq-at", "soma-dlq-offset"] {
            let mut record = raw("0");
            record.headers = record.headers.filtered(|n| n != name);
            assert!(Letter::read(record).unwrap_err().contains(name));
        }
        assert!(Letter::read(raw("many")).unwrap_err().contains("soma-dlq-replays"));
    }

    #[test]
    fn filters() {
        let letter = Letter::read(raw("0")).unwrap();
        let some = |text: &str| Some(text.to_owned());
        for (filter, passes) in [
            (Filter::default(), true),
            (
                Filter {
                    topic: some("soma.plans.dlq"),
                    ..Filter::default()
                },
                true,
            ),
            (
                Filter {
                    topic: some("soma.plans"),
                    stage: some("policy_gate"),
                    code: some("record_unreadable"),
                    key: some("run_"),
                    ..Filter::default()
                },
                true,
            ),
            (
                Filter {
                    stage: some("intake"),
                    ..Filter::default()
                },
                false,
            ),
            (
                Filter {
                    key: some("other"),
                    ..Filter::default()
                },
                false,
            ),
            (
                Filter {
                    tenant: some("globex"),
                    ..Filter::default()
                },
                false,
            ),
            (
                Filter {
                    since: some("2026-02-01T00:00:00Z"),
                    ..Filter::default()
                },
                false,
            ),
        ] {
            let since = filter.since(Timestamp(0)).unwrap();
            assert_eq!(filter.passes(&letter, since), passes, "{filter:?}");
        }
        assert!(
            Filter {
                since: some("soon"),
                ..Filter::default()
            }
            .since(Timestamp(0))
            .is_err()
        );
    }

    #[test]
    fn a_kill_covers_by_value_header_or_key() {
        let letter = Letter::read(raw("0")).unwrap();
        let with = |scope, target: &str, action| {
            let mut controls = Controls::default();
            controls.apply(Control {
                scope,
                target: target.into(),
                action,
                ..Control::default()
            });
            controls
        };
        let covered = |controls: &Controls, value: &Json| letter.stopped_by(controls, value).is_some();
        // Asked for by one person alone it is a pause, and yet nothing goes back.
        assert!(covered(&with(Scope::Global, "", ControlAction::Kill), &Json::Null));
        let tools = json!({"steps": [{"tool": "http"}, {"tool": "terraform"}]});
        assert!(covered(&with(Scope::Tool, "terraform", ControlAction::Kill), &tools));
        assert!(covered(&with(Scope::Tenant, "acme", ControlAction::Kill), &Json::Null));
        assert!(covered(&with(Scope::Run, "run_1", ControlAction::Cancel), &Json::Null));
        assert!(covered(
            &with(Scope::Capsule, "x", ControlAction::Kill),
            &json!({"capsule": "x@1"})
        ));
        assert!(!covered(
            &with(Scope::Tenant, "acme", ControlAction::Pause),
            &Json::Null
        ));
        assert!(!covered(
            &with(Scope::Tenant, "other", ControlAction::Kill),
            &Json::Null
        ));
    }
}
