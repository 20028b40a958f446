-- title: What ClickHouse keeps
-- unit:
-- draw: table
-- about: Rows of each topic that came in this time, and how long ago the newest was written.
SELECT topic, sum(rows) AS rows, count() AS partitions, min(age) AS newest_s
FROM (
    SELECT _topic AS topic, _partition, count() AS rows, dateDiff('second', max(_at), {to:DateTime}) AS age
    FROM (
        SELECT _topic, _partition, _at FROM events WHERE _at >= {from:DateTime} AND _at < {to:DateTime}
        UNION ALL SELECT _topic, _partition, _at FROM runs WHERE _at >= {from:DateTime} AND _at < {to:DateTime}
        UNION ALL SELECT _topic, _partition, _at FROM verdicts WHERE _at >= {from:DateTime} AND _at < {to:DateTime}
        UNION ALL SELECT _topic, _partition, _at FROM outcomes WHERE _at >= {from:DateTime} AND _at < {to:DateTime}
        UNION ALL SELECT _topic, _partition, _at FROM metrics WHERE _at >= {from:DateTime} AND _at < {to:DateTime}
        UNION ALL SELECT _topic, _partition, _at FROM audit WHERE _at >= {from:DateTime} AND _at < {to:DateTime}
        UNION ALL SELECT _topic, _partition, _at FROM checkpoints WHERE _at >= {from:DateTime} AND _at < {to:DateTime}
    )
    GROUP BY topic, _partition
)
GROUP BY topic
ORDER BY rows DESC, topic
