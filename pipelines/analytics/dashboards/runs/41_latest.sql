-- title: Latest runs
-- unit:
-- draw: table
-- about: The newest fifteen.
SELECT formatDateTime(requested_at, '%H:%i:%S') AS asked, tenant, capsule, status, fault_code, concat(toString(steps_succeeded), '/', toString(steps_total)) AS steps,
    dateDiff('millisecond', requested_at, ifNull(finished_at, updated_at)) AS took_ms
FROM runs_latest
WHERE requested_at >= {from:DateTime} AND requested_at < {to:DateTime}
ORDER BY requested_at DESC
LIMIT 15
