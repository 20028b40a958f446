-- The original's job: how many events a minute.
CREATE TABLE events (
  ts TIMESTAMP NOT NULL,
  WATERMARK FOR ts AS ts - INTERVAL '5 seconds'
) WITH (connector = 'kafka', type = 'source', topic = 'bench.events', format = 'avro', 'avro.confluent_schema_registry' = 'true',
        'soma.allowed_lateness' = '1 minute', 'soma.idle' = '10 seconds');
CREATE TABLE per_minute WITH (connector = 'kafka', type = 'sink', topic = 'bench.per_minute', format = 'avro', 'avro.confluent_schema_registry' = 'true');
INSERT INTO per_minute SELECT tumble(INTERVAL '1 minute') AS window, count(*) AS events FROM events GROUP BY window;
