-- title: What ClickHouse keeps
-- unit:
-- draw: table
-- about: Rows of each topic that came in these minutes, and how long ago the newest was written.
SELECT topic, sum(rows) AS rows, count() AS partitions, min(dateDiff('second', newest, {to:DateTime})) AS newest_s
FROM (
    SELECT _topic AS topic, _partition, count() AS rows, max(_at) AS newest FROM events
    WHERE toStartOfMinute(_at) >= toStartOfMinute({from:DateTime}) AND toStartOfMinute(_at) < {to:DateTime} GROUP BY _topic, _partition
    UNION ALL SELECT _topic AS topic, _partition, count() AS rows, max(_at) AS newest FROM runs
    WHERE toStartOfMinute(_at) >= toStartOfMinute({from:DateTime}) AND toStartOfMinute(_at) < {to:DateTime} GROUP BY _topic, _partition
    UNION ALL SELECT _topic AS topic, _partition, count() AS rows, max(_at) AS newest FROM verdicts
    WHERE toStartOfMinute(_at) >= toStartOfMinute({from:DateTime}) AND toStartOfMinute(_at) < {to:DateTime} GROUP BY _topic, _partition
    UNION ALL SELECT _topic AS topic, _partition, count() AS rows, max(_at) AS newest FROM outcomes
    WHERE toStartOfMinute(_at) >= toStartOfMinute({from:DateTime}) AND toStartOfMinute(_at) < {to:DateTime} GROUP BY _topic, _partition
    UNION ALL SELECT _topic AS topic, _partition, count() AS rows, max(_at) AS newest FROM metrics
    WHERE toStartOfMinute(_at) >= toStartOfMinute({from:DateTime}) AND toStartOfMinute(_at) < {to:DateTime} GROUP BY _topic, _partition
    UNION ALL SELECT _topic AS topic, _partition, count() AS rows, max(_at) AS newest FROM audit
    WHERE toStartOfMinute(_at) >= toStartOfMinute({from:DateTime}) AND toStartOfMinute(_at) < {to:DateTime} GROUP BY _topic, _partition
    UNION ALL SELECT _topic AS topic, _partition, count() AS rows, max(_at) AS newest FROM checkpoints
    WHERE toStartOfMinute(_at) >= toStartOfMinute({from:DateTime}) AND toStartOfMinute(_at) < {to:DateTime} GROUP BY _topic, _partition
)
GROUP BY topic
ORDER BY rows DESC, topic
