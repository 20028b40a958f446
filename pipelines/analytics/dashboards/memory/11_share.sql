-- title: Outcomes that are remembered
-- unit: %
-- draw: number
-- about: A refused call is not: it was not even tried.
SELECT if(outcomes = 0, 0, memories / outcomes) AS share
FROM (
    SELECT
        (SELECT sum(events) FROM events_1m WHERE type = 'memory.indexed' AND minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}) AS memories,
        (SELECT sum(calls) FROM calls_1m WHERE status != 'REFUSED' AND minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}) AS outcomes
)
