-- title: Verdicts by decision
-- unit:
-- draw: bars
-- about: What the policy gate decided about plans and steps.
SELECT decision, sum(verdicts) AS verdicts
FROM verdicts_1m
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY decision
ORDER BY verdicts DESC, decision
