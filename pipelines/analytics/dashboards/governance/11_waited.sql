-- title: Median wait for a human
-- unit: s
-- draw: number
-- about: From the question to the answer that settled it.
SELECT ifNotFinite(quantileExactIf(0.5)(waited_s, answered_at IS NOT NULL), 0) AS waited_s
FROM approvals_waited
WHERE asked_at >= {from:DateTime} AND asked_at < {to:DateTime}
