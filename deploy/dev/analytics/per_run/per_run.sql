-- Events an hour by run: as many keys are open as there are runs.
CREATE TABLE events (
  ts TIMESTAMP NOT NULL, run_id TEXT NOT NULL,
  WATERMARK FOR ts AS ts - INTERVAL '5 seconds'
) WITH (connector = 'kafka', type = 'source', topic = 'bench.events', format = 'avro', 'avro.confluent_schema_registry' = 'true',
        'soma.allowed_lateness' = '1 minute', 'soma.idle' = '10 seconds');
CREATE TABLE per_run WITH (connector = 'kafka', type = 'sink', topic = 'bench.per_run', format = 'avro', 'avro.confluent_schema_registry' = 'true');
INSERT INTO per_run SELECT tumble(INTERVAL '1 hour') AS window, run_id, count(*) AS events FROM events GROUP BY window, run_id;
