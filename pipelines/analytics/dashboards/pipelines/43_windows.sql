-- title: Windows that closed, and their corrections
-- unit:
-- draw: lines
-- about: Metrics of the streaming analytics by when they were emitted; a correction is a late event that changed a closed window.
SELECT toStartOfMinute(emitted_at) AS time, if(revision = 0, 'first', 'correction') AS what, count() AS metrics
FROM metrics
WHERE toStartOfMinute(emitted_at) >= toStartOfMinute({from:DateTime}) AND toStartOfMinute(emitted_at) < {to:DateTime}
GROUP BY time, what
ORDER BY time, what
