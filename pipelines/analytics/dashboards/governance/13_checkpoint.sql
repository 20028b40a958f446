-- title: Since the last signed checkpoint
-- unit: s
-- draw: number
-- about: Of the chain that waited longest. Every chain with new entries is signed once a minute.
SELECT dateDiff('second', min(last), {to:DateTime}) AS since_s
FROM (SELECT chain, max(signed_at) AS last FROM checkpoints WHERE signed_at >= {from:DateTime} AND signed_at < {to:DateTime} GROUP BY chain)
