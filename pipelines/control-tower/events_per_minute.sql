-- Events per minute by tenant and type. Run on each micro-batch of soma.events; the counts of batches are added up in state.
-- Reads:  events(partition INT, ts TIMESTAMP(us, UTC), tenant TEXT, type TEXT, run_id TEXT)
-- Gives:  partition, window_start (a whole minute), tenant, type, events (how many)
SELECT
  partition,
  date_bin(INTERVAL '1 minute', ts) AS window_start,
  tenant,
  type,
  count(*) AS events
FROM events
GROUP BY 1, 2, 3, 4
