-- title: Rules that were broken
-- unit:
-- draw: bars
-- about: Each verdict once under every rule it names.
SELECT rule, decision, sum(verdicts) AS verdicts
FROM rules_1m
WHERE rule != '' AND minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY rule, decision
ORDER BY verdicts DESC, rule
