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

-- Two streams, row by row: each flight beside the flights of the opposite way in the same window. Neither side is aggregated before.
CREATE TABLE returns WITH (connector = 'kafka', type = 'sink', topic = 'demo.flights_returns', format = 'avro', 'avro.confluent_schema_registry' = 'true');
CREATE TABLE answered WITH (connector = 'kafka', type = 'sink', topic = 'demo.flights_answered', format = 'avro', 'avro.confluent_schema_registry' = 'true');
CREATE TABLE ways WITH (connector = 'kafka', type = 'sink', topic = 'demo.flights_ways', format = 'avro', 'avro.confluent_schema_registry' = 'true');

CREATE VIEW overlapping AS
SELECT hop(INTERVAL '30 minutes', INTERVAL '1 hour') AS window, date, origin, destination, distance FROM flights;

CREATE VIEW hourly AS
SELECT tumble(INTERVAL '1 hour') AS window, date, origin, destination, distance FROM flights;

-- A flight back leaves later, in the same window.
INSERT INTO returns
SELECT there.window, there.origin, count(*) AS pairs, sum(there.distance) AS distance
FROM overlapping there JOIN overlapping back
  ON there.window = back.window AND there.origin = back.destination AND there.destination = back.origin
WHERE back.date > there.date
GROUP BY there.window, there.origin;

-- Every route is there, also where no flight of the hour comes back later.
INSERT INTO answered
SELECT there.window, there.origin, there.destination, count(*) AS flights, count(back.date) AS answers
FROM hourly there LEFT JOIN hourly back
  ON there.window = back.window AND there.origin = back.destination AND there.destination = back.origin AND back.date > there.date
GROUP BY there.window, there.origin, there.destination;

-- Either way, by airport; back only those of more than 500 miles.
INSERT INTO ways
SELECT coalesce(there.window, back.window) AS window, coalesce(there.origin, back.destination) AS airport,
  count(there.date) AS away, count(back.date) AS home
FROM hourly there FULL JOIN (SELECT * FROM hourly WHERE distance > 500) back
  ON there.window = back.window AND there.origin = back.destination AND there.destination = back.origin
GROUP BY coalesce(there.window, back.window), coalesce(there.origin, back.destination);
