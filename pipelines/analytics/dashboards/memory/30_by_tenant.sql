-- title: Memories by tenant and how the call ended
-- unit:
-- draw: table
-- about: Whose memories, of what.
SELECT tenant, payload['status'] AS status, count() AS memories, uniqExact(run_id) AS runs, formatDateTime(max(ts), '%m-%d %H:%i:%S') AS latest
FROM events
WHERE type = 'memory.indexed' AND ts >= {from:DateTime} AND ts < {to:DateTime}
GROUP BY tenant, status
ORDER BY memories DESC, tenant, status
