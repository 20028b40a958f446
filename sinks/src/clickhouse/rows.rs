//! Records as rows: one struct per table of `migrations/clickhouse`, in the order of its columns.

use clickhouse::{Row, RowOwned, RowWrite};
use kernel::RawRecord;
use schemas::records::{AuditEntry, Checkpoint, Event, FaultInfo, Metric, Outcome, Run, StepStatus, Verdict};
use schemas::topics::{self, Topic};
use schemas::{Record, Timestamp};
use serde::Serialize;

use super::native::{Block, Columns};

/// A record that becomes a row of a table.
pub(crate) trait Stored: Record {
    /// Its row.
    type Row: RowOwned + RowWrite + Columns + Serialize + Send + Sync + 'static;
    /// Its table.
    const TABLE: &'static str;
    /// Its topic.
    const TOPIC: Topic<Self>;
    /// The row of a record.
    fn row(self, raw: &RawRecord) -> Self::Row;
    /// Marks a row as one that the minute tables have counted already.
    fn again(row: &mut Self::Row);
}

macro_rules! row {
    (@columns $name:ident { $($field:ident,)+ }) => {
        impl Columns for $name {
            const COUNT: usize = <Self as Row>::COLUMN_NAMES.len();

            fn write(rows: &[Self], block: &mut Block<'_>) -> Result<(), String> {
                let names = &mut <Self as Row>::COLUMN_NAMES.iter();
                $(block.column(names.next().unwrap_or(&""), rows.iter().map(|row| &row.$field))?;)+
                Ok(())
            }
        }
    };
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Row, Serialize)]
        pub(crate) struct $name {
            $($(#[$field_meta])* $field: $type,)+
            _topic: String,
            _partition: i32,
            _offset: i64,
            _at: i64,
            _again: bool,
        }

        row! { @columns $name { $($field,)+ _topic, _partition, _offset, _at, _again, } }
    };
}

macro_rules! stored {
    ($record:ident in $topic:path as $table:literal: $row:ident { $($field:ident: $value:expr,)+ } from $r:ident) => {
        impl Stored for $record {
            type Row = $row;
            const TABLE: &'static str = $table;
            const TOPIC: Topic<Self> = $topic;

            fn row(self, raw: &RawRecord) -> $row {
                let $r = self;
                $row {
                    $($field: $value,)+
                    _topic: raw.position.topic.to_string(),
                    _partition: raw.position.partition,
                    _offset: raw.position.offset,
                    _at: raw.at.0,
                    _again: false,
                }
            }

            fn again(row: &mut $row) {
                row._again = true;
            }
        }
    };
}

row! {
    /// Table `events`.
    EventRow {
        event_id: String,
        ts: i64,
        tenant: String,
        run_id: String,
        #[serde(rename = "type")]
        kind: String,
        payload: Vec<(String, String)>,
    }
}

stored! { Event in topics::EVENTS as "events": EventRow {
    event_id: r.event_id,
    ts: r.ts.0,
    tenant: r.tenant,
    run_id: r.run_id,
    kind: r.kind,
    payload: r.payload.into_iter().collect(),
} from r }

row! {
    /// Table `runs`: one row per state of a run.
    RunRow {
        run_id: String,
        revision: i64,
        plan_id: String,
        tenant: String,
        actor: String,
        goal: String,
        capsule: String,
        idempotency_key: String,
        status: String,
        reason: String,
        fault_code: String,
        fault_detail: String,
        steps_total: u32,
        steps_succeeded: u32,
        waiting: u32,
        tools: Vec<String>,
        steps: String,
        cost_usd: i64,
        requested_at: i64,
        created_at: i64,
        updated_at: i64,
        finished_at: Option<i64>,
    }
}

stored! { Run in topics::RUNS as "runs": RunRow {
    steps_total: count(r.steps.len()),
    steps_succeeded: count(r.steps.iter().filter(|s| s.status == StepStatus::Succeeded).count()),
    tools: tools(&r),
    steps: json(&r.steps),
    waiting: count(r.waiting.len()),
    fault_code: code(r.fault.as_ref()),
    fault_detail: detail(r.fault),
    run_id: r.run_id,
    revision: r.revision,
    plan_id: r.plan_id,
    tenant: r.tenant,
    actor: r.actor,
    goal: r.goal,
    capsule: r.capsule.unwrap_or_default(),
    idempotency_key: r.idempotency_key,
    status: word(&r.status),
    reason: r.reason,
    cost_usd: r.cost_usd.0,
    requested_at: r.requested_at.0,
    created_at: r.created_at.0,
    updated_at: r.updated_at.0,
    finished_at: r.finished_at.map(micros),
} from r }

row! {
    /// Table `verdicts`.
    VerdictRow {
        verdict_id: String,
        run_id: String,
        tenant: String,
        subject: String,
        subject_id: String,
        decision: String,
        score: f64,
        severity: String,
        rules: Vec<String>,
        violations: String,
        reason: String,
        policy_revision: String,
        constitution_hash: String,
        digest: String,
        approval_id: String,
        evaluation_us: i64,
        decided_at: i64,
    }
}

stored! { Verdict in topics::VERDICTS as "verdicts": VerdictRow {
    verdict_id: r.verdict_id,
    run_id: r.run_id,
    tenant: r.tenant,
    subject: word(&r.subject),
    subject_id: r.subject_id,
    decision: word(&r.decision),
    score: r.score,
    severity: word(&r.severity),
    rules: r.violations.iter().map(|v| v.rule.clone()).collect(),
    violations: json(&r.violations),
    reason: r.reason,
    policy_revision: r.policy_revision,
    constitution_hash: r.constitution_hash.unwrap_or_default(),
    digest: r.digest,
    approval_id: r.approval_id.unwrap_or_default(),
    evaluation_us: r.evaluation_us,
    decided_at: r.decided_at.0,
} from r }

row! {
    /// Table `outcomes`.
    OutcomeRow {
        call_id: String,
        run_id: String,
        tenant: String,
        capsule: String,
        step_id: String,
        kind: String,
        attempt: i32,
        tool: String,
        operation: String,
        status: String,
        result: String,
        fault_code: String,
        fault_detail: String,
        idempotency_key: String,
        digest: String,
        latency_us: i64,
        cost_usd: i64,
        requested_at: i64,
        finished_at: i64,
    }
}

stored! { Outcome in topics::OUTCOMES as "outcomes": OutcomeRow {
    fault_code: code(r.fault.as_ref()),
    fault_detail: detail(r.fault),
    call_id: r.call_id,
    run_id: r.run_id,
    tenant: r.tenant,
    capsule: r.capsule.unwrap_or_default(),
    step_id: r.step_id,
    kind: word(&r.kind),
    attempt: r.attempt,
    tool: r.tool,
    operation: r.operation,
    status: word(&r.status),
    result: r.result,
    idempotency_key: r.idempotency_key,
    digest: r.digest,
    latency_us: r.latency_us,
    cost_usd: r.cost_usd.0,
    requested_at: r.requested_at.0,
    finished_at: r.finished_at.0,
} from r }

row! {
    /// Table `metrics`: one row per revision of a window.
    MetricRow {
        name: String,
        labels: Vec<(String, String)>,
        tenant: String,
        #[serde(rename = "type")]
        kind: String,
        window_start: i64,
        window_end: i64,
        value: f64,
        revision: i32,
        emitted_at: i64,
    }
}

stored! { Metric in topics::METRICS as "metrics": MetricRow {
    tenant: r.labels.get("tenant").cloned().unwrap_or_default(),
    kind: r.labels.get("type").cloned().unwrap_or_default(),
    name: r.name,
    labels: r.labels.into_iter().collect(),
    window_start: r.window_start.0,
    window_end: r.window_end.0,
    value: r.value,
    revision: r.revision,
    emitted_at: r.emitted_at.0,
} from r }

row! {
    /// Table `audit`: an entry as it was chained, so that its Avro bytes can be made of it again.
    AuditRow {
        previous: String,
        chain: i32,
        seq: i64,
        chained_at: i64,
        record: String,
        topic: String,
        offset: i64,
        written_at: i64,
        tenant: String,
        run_id: String,
        subject: String,
        fact: String,
        digest: String,
        key_id: String,
        body: String,
    }
}

stored! { AuditEntry in topics::AUDIT as "audit": AuditRow {
    previous: r.previous,
    chain: r.chain,
    seq: r.seq,
    chained_at: r.chained_at.0,
    record: r.record,
    topic: r.topic,
    offset: r.offset,
    written_at: r.written_at.0,
    tenant: r.tenant,
    run_id: r.run_id,
    subject: r.subject,
    fact: r.fact,
    digest: r.digest,
    key_id: r.key_id,
    body: r.body,
} from r }

row! {
    /// Table `checkpoints`.
    CheckpointRow {
        chain: i32,
        number: i64,
        first_seq: i64,
        last_seq: i64,
        head: String,
        root: String,
        previous: String,
        signed_at: i64,
        public_key: String,
        signature: String,
    }
}

stored! { Checkpoint in topics::CHECKPOINTS as "checkpoints": CheckpointRow {
    chain: r.chain,
    number: r.number,
    first_seq: r.first_seq,
    last_seq: r.last_seq,
    head: r.head,
    root: r.root,
    previous: r.previous,
    signed_at: r.signed_at.0,
    public_key: r.public_key,
    signature: r.signature,
} from r }

fn micros(at: Timestamp) -> i64 {
    at.0
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn code(fault: Option<&FaultInfo>) -> String {
    fault.map(|f| f.code.clone()).unwrap_or_default()
}

fn detail(fault: Option<FaultInfo>) -> String {
    fault.map(|f| f.detail).unwrap_or_default()
}

/// Tools of a run, each once, in order of name.
fn tools(run: &Run) -> Vec<String> {
    let tools: std::collections::BTreeSet<_> = run.steps.iter().map(|s| s.tool.clone()).collect();
    tools.into_iter().collect()
}

/// The word an enum has on the wire.
fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// Records hold nothing that JSON cannot: no maps with keys other than text.
fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::testing::tombstone;
    use schemas::records::{RunStatus, RunStep};

    #[test]
    fn a_run_becomes_a_row_with_what_dashboards_ask_for() {
        let step = |tool: &str, status| RunStep {
            tool: tool.into(),
            status,
            ..RunStep::default()
        };
        let run = Run {
            run_id: "run_1".into(),
            status: RunStatus::WaitingApproval,
            steps: vec![step("http", StepStatus::Succeeded), step("http", StepStatus::Pending)],
            fault: Some(FaultInfo {
                code: "TOOL_FAILED".into(),
                ..FaultInfo::default()
            }),
            ..Run::default()
        };
        let row = run.row(&tombstone("soma.runs", 3, 42, "run_1"));
        assert_eq!(
            (row.status.as_str(), row.steps_total, row.steps_succeeded),
            ("WAITING_APPROVAL", 2, 1)
        );
        assert_eq!(
            (row.tools, row.fault_code.as_str()),
            (vec!["http".to_owned()], "TOOL_FAILED")
        );
        assert_eq!((row._partition, row._offset), (3, 42));
    }
}
