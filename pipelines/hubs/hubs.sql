-- Joins: flights beside the airports they left and flew to, looked up in a compacted topic, and departures beside arrivals, hour by hour.
-- `soma sql check hubs` checks it, `soma sql explain hubs` shows how it runs, `make verify-joins` compares every window with a
-- computation of the same by ClickHouse.
CREATE TABLE flights (
  id TEXT NOT NULL,
  date TIMESTAMP NOT NULL,
  distance BIGINT NOT NULL,
  origin TEXT NOT NULL,
  destination TEXT NOT NULL,
  WATERMARK FOR date AS date - INTERVAL '10 minutes'
) WITH (
  connector = 'kafka', type = 'source', topic = 'demo.flights', format = 'avro', 'avro.confluent_schema_registry' = 'true',
  'soma.unique' = 'id', 'soma.allowed_lateness' = '12 hours', 'soma.idle' = '10 seconds'
);

-- Every instance holds it whole; the newest row of a code is joined.
CREATE TABLE airports (iata TEXT PRIMARY KEY, state TEXT) WITH (
  connector = 'kafka', type = 'source', topic = 'demo.airports', format = 'avro', 'avro.confluent_schema_registry' = 'true',
  'soma.lookup' = 'true'
);

CREATE TABLE per_state WITH (connector = 'kafka', type = 'sink', topic = 'demo.flights_per_state', format = 'avro', 'avro.confluent_schema_registry' = 'true');
CREATE TABLE between_states WITH (connector = 'kafka', type = 'sink', topic = 'demo.flights_between_states', format = 'avro', 'avro.confluent_schema_registry' = 'true');
CREATE TABLE hubs WITH (connector = 'kafka', type = 'sink', topic = 'demo.flights_hubs', format = 'avro', 'avro.confluent_schema_registry' = 'true');

-- An airport nobody knows has no state: the row stays.
INSERT INTO per_state
SELECT tumble(INTERVAL '1 hour') AS window, a.state, count(*) AS flights, sum(f.distance) AS distance
FROM flights f LEFT JOIN airports a ON f.origin = a.iata GROUP BY window, a.state;

-- Both ends must be known: others are left out.
INSERT INTO between_states
SELECT tumble(INTERVAL '1 day') AS window, a.state AS from_state, b.state AS to_state, count(*) AS flights
FROM flights f JOIN airports a ON f.origin = a.iata JOIN airports b ON f.destination = b.iata
GROUP BY window, a.state, b.state;

CREATE VIEW departures AS
SELECT tumble(INTERVAL '1 hour') AS window, origin AS airport, count(*) AS flights FROM flights GROUP BY window, origin;

CREATE VIEW arrivals AS
SELECT tumble(INTERVAL '1 hour') AS window, destination AS airport, count(*) AS flights FROM flights GROUP BY window, destination;

INSERT INTO hubs
SELECT coalesce(d.window, a.window) AS window, coalesce(d.airport, a.airport) AS airport,
  coalesce(d.flights, 0) AS departures, coalesce(a.flights, 0) AS arrivals
FROM departures d FULL JOIN arrivals a ON d.window = a.window AND d.airport = a.airport;
