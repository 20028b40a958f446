-- The newest word: a run's latest state, a window's latest revision.

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
    argMax(requested_at, revision) AS requested_at,
    argMax(created_at, revision) AS created_at,
    argMax(updated_at, revision) AS updated_at,
    argMax(tuple(finished_at), revision).1 AS finished_at
FROM runs
GROUP BY tenant, run_id;

CREATE OR REPLACE VIEW metrics_latest AS
SELECT
    name,
    tenant,
    type,
    labels,
    window_start,
    window_end,
    argMax(value, revision) AS value,
    max(revision) AS latest_revision
FROM metrics
GROUP BY name, tenant, type, labels, window_start, window_end;
