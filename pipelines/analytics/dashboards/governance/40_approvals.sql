-- title: Questions to humans
-- unit:
-- draw: table
-- about: The latest fifteen: what waited, how long, and what was said.
SELECT formatDateTime(asked_at, '%m-%d %H:%i:%S') AS asked, tenant, capsule, if(answered_at IS NULL, 'open', decision) AS answer, escalations, waited_s
FROM approvals_waited
WHERE asked_at >= {from:DateTime} AND asked_at < {to:DateTime}
ORDER BY asked_at DESC
LIMIT 15
