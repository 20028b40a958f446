-- Six views over flights by the time they left, exact per window: tumbling, hopping and session windows, in Arroyo's dialect.
-- `soma sql check flights` checks it, `soma sql explain flights` shows how it runs, `make verify-windows` compares every window
-- with a computation of the same by ClickHouse.
CREATE TABLE flights (
  id TEXT NOT NULL,
  date TIMESTAMP NOT NULL,
  delay BIGINT NOT NULL,
  distance BIGINT NOT NULL,
  origin TEXT NOT NULL,
  destination TEXT NOT NULL,
  WATERMARK FOR date AS date - INTERVAL '10 minutes'
) WITH (
  connector = 'kafka', type = 'source', topic = 'demo.flights', format = 'avro', 'avro.confluent_schema_registry' = 'true',
  'soma.unique' = 'id', 'soma.allowed_lateness' = '12 hours', 'soma.idle' = '10 seconds'
);

CREATE TABLE per_hour WITH (connector = 'kafka', type = 'sink', topic = 'demo.flights_per_hour', format = 'avro', 'avro.confluent_schema_registry' = 'true');
CREATE TABLE per_minute_total WITH (connector = 'kafka', type = 'sink', topic = 'demo.flights_per_minute_total', format = 'avro', 'avro.confluent_schema_registry' = 'true');
CREATE TABLE per_day_route WITH (connector = 'kafka', type = 'sink', topic = 'demo.flights_per_day_route', format = 'avro', 'avro.confluent_schema_registry' = 'true');
CREATE TABLE hop_hours WITH (connector = 'kafka', type = 'sink', topic = 'demo.flights_hop_hours', format = 'avro', 'avro.confluent_schema_registry' = 'true');
CREATE TABLE busy WITH (connector = 'kafka', type = 'sink', topic = 'demo.flights_busy', format = 'avro', 'avro.confluent_schema_registry' = 'true');
CREATE TABLE spread WITH (connector = 'kafka', type = 'sink', topic = 'demo.flights_spread', format = 'avro', 'avro.confluent_schema_registry' = 'true');

-- Without a window of its own a view is put into those that read it.
CREATE VIEW delayed AS SELECT date, delay, origin FROM flights WHERE delay > 0;

INSERT INTO per_hour
SELECT tumble(INTERVAL '1 hour') AS window, origin,
  count(*) AS flights, avg(delay) AS delay_avg, max(delay) AS delay_max, sum(distance) AS distance
FROM flights GROUP BY window, origin;

INSERT INTO per_minute_total
SELECT tumble(INTERVAL '1 minute') AS window, count(*) AS flights FROM flights GROUP BY window;

INSERT INTO per_day_route
SELECT tumble(INTERVAL '1 day') AS window, origin, destination,
  count(*) AS flights, min(delay) AS delay_min, max(delay) AS delay_max, sum(distance) AS distance
FROM flights GROUP BY window, origin, destination;

INSERT INTO hop_hours
SELECT hop(INTERVAL '15 minutes', INTERVAL '1 hour') AS window, origin, count(*) AS flights, avg(delay) AS delay_avg
FROM delayed GROUP BY window, origin;

INSERT INTO busy
SELECT session(INTERVAL '20 minutes') AS window, origin, destination, count(*) AS flights, sum(distance) AS distance
FROM flights GROUP BY window, origin, destination;

INSERT INTO spread
SELECT tumble(INTERVAL '6 hours') AS window, origin,
  approx_percentile_cont(delay, 0.95) AS delay_p95, count(DISTINCT destination) AS destinations
FROM flights GROUP BY window, origin;
