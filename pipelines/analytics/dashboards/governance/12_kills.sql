-- title: Kill switches pressed
-- unit:
-- draw: number
-- about: Kills at any scope; pauses and cancels are in the panel of human acts.
SELECT sum(entries) AS kills
FROM audit_1m
WHERE record = 'Control' AND fact = 'KILL' AND minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
