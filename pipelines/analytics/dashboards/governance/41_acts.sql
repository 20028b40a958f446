-- title: What people did
-- unit:
-- draw: bars
-- about: From the audit chains: answers, controls, roles, policies, constitutions, strikes.
SELECT record, fact, scope, sum(entries) AS entries
FROM audit_1m
WHERE record IN ('Approval', 'Delegation', 'Control', 'Member', 'Policy', 'Constitution', 'Strike') AND minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY record, fact, scope
ORDER BY entries DESC, record, fact
