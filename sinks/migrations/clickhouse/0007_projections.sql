-- What the boards ask of the facts, in the order in which they ask: each table is kept by tenant, most panels ask for a stretch of time.
-- ClickHouse takes a projection by itself where less is to be read so (EXPLAIN projections = 1 shows it); no query names one, and each
-- gives the same rows without (projections_live_tests.rs).
--
-- * A projection lies within each part of its table and is written, merged and removed with it. An insert whose token is known makes
--   no part, and so no row of a projection: under replay it is exact because the table is.
-- * `deduplicate_merge_projection_mode` says what becomes of projections where merges put rows of a key together (Replacing,
--   Aggregating, ...). The facts are plain MergeTree, where only the TTL and mutations take rows away, and both make the projection
--   of what is left anew. Nothing is set, so that the server refuses a projection of a table for which it had to be said.
-- * MATERIALIZE makes it for the parts there are, in the background; until then those are read as before.
-- * Not for the audit: it is in the order of its chains, which is nearly that of time, so least and greatest time of each granule do.
--
-- Cost per insert and on disk, and what it saves: sinks/README.md.

-- Memories, approvals, and the recount of events.
ALTER TABLE events ADD PROJECTION IF NOT EXISTS by_type (SELECT type, ts, tenant, run_id, payload ORDER BY type, ts);
ALTER TABLE events MATERIALIZE PROJECTION IF EXISTS by_type;

-- Runs by when they were asked for, without what is long.
ALTER TABLE runs ADD PROJECTION IF NOT EXISTS by_request (
    SELECT
        requested_at, tenant, run_id, revision, capsule, status, fault_code, steps_total, steps_succeeded, cost_usd, updated_at,
        finished_at
    ORDER BY requested_at
);
ALTER TABLE runs MATERIALIZE PROJECTION IF EXISTS by_request;

-- `requested_at` is the plan's and the same in every state of a run (the orchestrator copies it). As a key of the groups it can be
-- asked for before the states are put together; as a measure it could only be asked for after, of every run there ever was.
CREATE OR REPLACE VIEW runs_latest AS
SELECT
    tenant,
    run_id,
    max(revision) AS latest_revision,
    argMax(plan_id, revision) AS plan_id,
    argMax(actor, revision) AS actor,
    argMax(goal, revision) AS goal,
    argMax(capsule, revision) AS capsule,
    argMax(idempotency_key, revision) AS idempotency_key,
    argMax(status, revision) AS status,
    argMax(reason, revision) AS reason,
    argMax(fault_code, revision) AS fault_code,
    argMax(fault_detail, revision) AS fault_detail,
    argMax(steps_total, revision) AS steps_total,
    argMax(steps_succeeded, revision) AS steps_succeeded,
    argMax(waiting, revision) AS waiting,
    argMax(tools, revision) AS tools,
    argMax(steps, revision) AS steps,
    argMax(cost_usd, revision) AS cost_usd,
    requested_at,
    argMax(created_at, revision) AS created_at,
    argMax(updated_at, revision) AS updated_at,
    argMax(tuple(finished_at), revision).1 AS finished_at
FROM runs
GROUP BY tenant, run_id, requested_at;

-- The recount of minutes (`minutes_drift`), without what is long.
ALTER TABLE verdicts ADD PROJECTION IF NOT EXISTS by_time (
    SELECT decided_at, tenant, subject, decision, severity, rules, evaluation_us ORDER BY decided_at
);
ALTER TABLE verdicts MATERIALIZE PROJECTION IF EXISTS by_time;
ALTER TABLE outcomes ADD PROJECTION IF NOT EXISTS by_time (
    SELECT
        finished_at, tenant, capsule, tool, operation, kind, status, fault_code, attempt, cost_usd, latency_us
    ORDER BY finished_at
);
ALTER TABLE outcomes MATERIALIZE PROJECTION IF EXISTS by_time;
ALTER TABLE audit ADD INDEX IF NOT EXISTS by_time written_at TYPE minmax GRANULARITY 1;
ALTER TABLE audit MATERIALIZE INDEX IF EXISTS by_time;

-- The last checkpoints.
ALTER TABLE checkpoints ADD PROJECTION IF NOT EXISTS by_time (SELECT chain, signed_at ORDER BY signed_at);
ALTER TABLE checkpoints MATERIALIZE PROJECTION IF EXISTS by_time;

-- Windows by when they were told.
ALTER TABLE metrics ADD PROJECTION IF NOT EXISTS emitted (
    SELECT toStartOfMinute(emitted_at), revision, count() GROUP BY toStartOfMinute(emitted_at), revision
);
ALTER TABLE metrics MATERIALIZE PROJECTION IF EXISTS emitted;

-- How many records came in, and when the last.
ALTER TABLE events ADD PROJECTION IF NOT EXISTS arrived (
    SELECT toStartOfMinute(_at), _topic, _partition, count(), max(_at) GROUP BY toStartOfMinute(_at), _topic, _partition
);
ALTER TABLE events MATERIALIZE PROJECTION IF EXISTS arrived;
ALTER TABLE runs ADD PROJECTION IF NOT EXISTS arrived (
    SELECT toStartOfMinute(_at), _topic, _partition, count(), max(_at) GROUP BY toStartOfMinute(_at), _topic, _partition
);
ALTER TABLE runs MATERIALIZE PROJECTION IF EXISTS arrived;
ALTER TABLE verdicts ADD PROJECTION IF NOT EXISTS arrived (
    SELECT toStartOfMinute(_at), _topic, _partition, count(), max(_at) GROUP BY toStartOfMinute(_at), _topic, _partition
);
ALTER TABLE verdicts MATERIALIZE PROJECTION IF EXISTS arrived;
ALTER TABLE outcomes ADD PROJECTION IF NOT EXISTS arrived (
    SELECT toStartOfMinute(_at), _topic, _partition, count(), max(_at) GROUP BY toStartOfMinute(_at), _topic, _partition
);
ALTER TABLE outcomes MATERIALIZE PROJECTION IF EXISTS arrived;
ALTER TABLE metrics ADD PROJECTION IF NOT EXISTS arrived (
    SELECT toStartOfMinute(_at), _topic, _partition, count(), max(_at) GROUP BY toStartOfMinute(_at), _topic, _partition
);
ALTER TABLE metrics MATERIALIZE PROJECTION IF EXISTS arrived;
ALTER TABLE audit ADD PROJECTION IF NOT EXISTS arrived (
    SELECT toStartOfMinute(_at), _topic, _partition, count(), max(_at) GROUP BY toStartOfMinute(_at), _topic, _partition
);
ALTER TABLE audit MATERIALIZE PROJECTION IF EXISTS arrived;
ALTER TABLE checkpoints ADD PROJECTION IF NOT EXISTS arrived (
    SELECT toStartOfMinute(_at), _topic, _partition, count(), max(_at) GROUP BY toStartOfMinute(_at), _topic, _partition
);
ALTER TABLE checkpoints MATERIALIZE PROJECTION IF EXISTS arrived;
