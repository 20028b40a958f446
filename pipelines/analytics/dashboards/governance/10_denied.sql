-- title: Verdicts that denied
-- unit: %
-- draw: number
-- about: Of all verdicts.
SELECT if(sum(verdicts) = 0, 0, sumIf(verdicts, decision = 'DENY') / sum(verdicts)) AS share
FROM verdicts_1m
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
