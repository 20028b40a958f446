-- Events a minute by tenant and type.
CREATE TABLE events (
  ts TIMESTAMP NOT NULL, tenant TEXT NOT NULL, type TEXT NOT NULL,
  WATERMARK FOR ts AS ts - INTERVAL '5 seconds'
) WITH (connector = 'kafka', type = 'source', topic = 'bench.events', format = 'avro', 'avro.confluent_schema_registry' = 'true',
        'soma.allowed_lateness' = '1 minute', 'soma.idle' = '10 seconds');
CREATE TABLE per_tenant WITH (connector = 'kafka', type = 'sink', topic = 'bench.per_tenant', format = 'avro', 'avro.confluent_schema_registry' = 'true');
INSERT INTO per_tenant SELECT tumble(INTERVAL '1 minute') AS window, tenant, type, count(*) AS events FROM events GROUP BY window, tenant, type;
