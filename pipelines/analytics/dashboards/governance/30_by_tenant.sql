-- title: Verdicts by tenant
-- unit:
-- draw: table
-- about: What was decided about whose plans and steps.
SELECT
    tenant, sumIf(verdicts, decision = 'ALLOW') AS allowed, sumIf(verdicts, decision = 'ESCALATE') AS escalated,
    sumIf(verdicts, decision = 'DENY') AS denied, denied / sum(verdicts) AS denied_rate
FROM verdicts_1m
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY tenant
ORDER BY denied_rate DESC, tenant
