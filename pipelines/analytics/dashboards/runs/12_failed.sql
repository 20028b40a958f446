-- title: Runs that failed, of those that ended
-- unit: %
-- draw: number
-- about: FAILED, UNKNOWN and COMPENSATED: what was allowed and did not work.
SELECT if(total = 0, 0, failed / total) AS share
FROM (
    SELECT
        uniqExactIfMerge(ended) AS total,
        uniqExactIfMergeIf(ended, status IN ('FAILED', 'UNKNOWN', 'COMPENSATED')) AS failed
    FROM runs_1m
    WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
)
