-- title: Verdicts per minute by decision
-- unit: /min
-- draw: lines
-- about: ALLOW, DENY and ESCALATE, of plans and steps.
SELECT minute AS time, decision, sum(verdicts) AS verdicts
FROM verdicts_1m
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY time, decision
ORDER BY time, decision
