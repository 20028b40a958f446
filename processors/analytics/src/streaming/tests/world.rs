//! What the tests run a query in: topics in memory that are read and committed as the loop does it, instances that die between
//! two commits, real flights (the first days of `flights-3m.parquet` of npm vega-datasets 3.2.1, BSD-3-Clause, seven airports).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use kernel::{Dataflow, Fault, FaultCode, Flow, RawEmit, Refused, Slab};
use schemas::Timestamp;

use super::followed::{AIRPORT, AIRPORT_ID, AIRPORTS, Follower, Log};
use crate::streaming::reader::decoder;
use crate::streaming::{Outcomes, Program, Schemas, Settings, Streaming};

pub(super) const TOPIC: &str = "demo.flights";
/// Flights once more, in a topic of their own.
pub(super) const OTHER: &str = "demo.landings";
pub(super) const MINUTE: i64 = 60_000_000;
pub(super) const HOUR: i64 = 60 * MINUTE;
pub(super) const AVRO: &str = r#"{"type":"record","name":"Flight","namespace":"demo","fields":[
  {"name":"id","type":"string"},
  {"name":"date","type":["null",{"type":"long","logicalType":"timestamp-micros"}],"default":null},
  {"name":"delay","type":["null","long"],"default":null},
  {"name":"distance","type":"long"},{"name":"origin","type":"string"},{"name":"destination","type":"string"}]}"#;
/// Schema id of the records.
pub(super) const ID: i32 = 41;
/// Ids of the results begin here.
pub(super) const RESULTS: i32 = 100;

/// A flight.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Flight {
    pub(super) id: String,
    pub(super) date: Option<i64>,
    pub(super) delay: Option<i64>,
    pub(super) distance: i64,
    pub(super) origin: String,
    pub(super) destination: String,
}

/// The flights of the file, in order of time.
pub(super) fn flights() -> Vec<Flight> {
    let line = |(i, line): (usize, &str)| {
        let columns: Vec<&str> = line.split(',').collect();
        Flight {
            id: i.to_string(),
            date: Some(format!("{}:00Z", columns[0]).parse::<Timestamp>().unwrap().0),
            delay: Some(columns[1].parse().unwrap()),
            distance: columns[2].parse().unwrap(),
            origin: columns[3].to_owned(),
            destination: columns[4].to_owned(),
        }
    };
    include_str!("flights.csv").lines().enumerate().map(line).collect()
}

/// A small generator of chance: xorshift.
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).unwrap()
    }
}

pub(super) fn long(out: &mut Vec<u8>, value: i64) {
    let mut left = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while left >= 0x80 {
        out.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

pub(super) fn text(out: &mut Vec<u8>, value: &str) {
    long(out, value.len() as i64);
    out.extend(value.as_bytes());
}

fn maybe(out: &mut Vec<u8>, value: Option<i64>) {
    long(out, i64::from(value.is_some()));
    value.into_iter().for_each(|v| long(out, v));
}

/// A framed record.
pub(super) fn encode(flight: &Flight) -> Vec<u8> {
    let mut out = vec![0];
    out.extend(ID.to_be_bytes());
    text(&mut out, &flight.id);
    maybe(&mut out, flight.date);
    maybe(&mut out, flight.delay);
    long(&mut out, flight.distance);
    text(&mut out, &flight.origin);
    text(&mut out, &flight.destination);
    out
}

struct Registry;

impl Schemas for Registry {
    fn writer(&self, _topic: &str, id: i32) -> Result<String, Fault> {
        match id {
            ID => return Ok(AVRO.to_owned()),
            AIRPORT_ID => return Ok(AIRPORT.to_owned()),
            _ => {}
        }
        Err(Fault::new(
            FaultCode::SchemaUnknown,
            format!("the registry has no schema {id}"),
        ))
    }
}

/// Topics, and a query over them.
pub(super) struct World {
    pub(super) program: Program,
    pub(super) settings: Settings,
    pub(super) source: Vec<Vec<Vec<u8>>>,
    pub(super) other: Vec<Vec<Vec<u8>>>,
    /// What was written to the lookup topic.
    pub(super) airports: Log,
    partials: Vec<Vec<Vec<u8>>>,
    pub(super) state: Vec<Vec<(String, Option<Vec<u8>>)>>,
    pub(super) results: Vec<RawEmit>,
    pub(super) late: Vec<RawEmit>,
    pub(super) refused: Vec<Refused>,
    pub(super) outcomes: Outcomes,
    pub(super) now: i64,
    read: Vec<[usize; 3]>,
}

/// An instance: the query's part, its partitions, and how far it read since the last commit.
struct Instance {
    query: Streaming,
    owned: Vec<usize>,
    read: HashMap<usize, [usize; 3]>,
    told: Outcomes,
}

/// The schemas of the topics.
pub(super) fn schemas() -> BTreeMap<String, String> {
    let all = [(TOPIC, AVRO), (OTHER, AVRO), (AIRPORTS, AIRPORT)];
    all.map(|(topic, schema)| (topic.to_owned(), schema.to_owned())).into()
}

/// Plans a file over the flights.
pub(super) fn program(sql: &str) -> Program {
    Program::plan(sql, &schemas()).unwrap()
}

impl World {
    pub(super) fn new(sql: &str, partitions: usize) -> Self {
        let settings = Settings {
            pipeline: "demo".to_owned(),
            stage: "views".to_owned(),
            partitions: partitions as i32,
            ..Settings::default()
        };
        Self {
            program: program(sql),
            settings,
            source: vec![Vec::new(); partitions],
            other: vec![Vec::new(); partitions],
            airports: Log::default(),
            partials: vec![Vec::new(); partitions],
            state: vec![Vec::new(); partitions],
            results: Vec::new(),
            late: Vec::new(),
            refused: Vec::new(),
            outcomes: Outcomes::default(),
            now: "2001-02-10T00:00:00Z".parse::<Timestamp>().unwrap().0,
            read: vec![[0; 3]; partitions],
        }
    }

    /// Writes a flight to a partition.
    pub(super) fn send(&mut self, partition: usize, flight: &Flight) {
        self.source[partition].push(encode(flight));
    }

    /// A flight so late in time that every window before it closes, in every partition.
    pub(super) fn send_last(&mut self) {
        for partition in 0..self.source.len() {
            let last = Flight {
                id: format!("last {partition}"),
                date: Some("2001-02-01T00:00:00Z".parse::<Timestamp>().unwrap().0),
                delay: Some(0),
                distance: 1,
                origin: "ZZZ".to_owned(),
                destination: "ZZZ".to_owned(),
            };
            self.send(partition, &last);
            if self.program.sources().iter().any(|topic| topic == OTHER) {
                self.other[partition].push(encode(&last));
            }
        }
    }

    fn start(&self, owned: Vec<usize>) -> Instance {
        let subjects = self.program.results().into_iter().map(|d| d.subject);
        let ids = subjects.zip(RESULTS..).collect();
        let mut query = self
            .program
            .start(self.settings.clone(), Arc::new(Registry), ids)
            .unwrap()
            .following(Box::new(Follower::of(&self.airports)));
        for partition in &owned {
            let log = &self.state[*partition];
            let newest: HashMap<&str, usize> = log.iter().enumerate().map(|(i, (key, _))| (key.as_str(), i)).collect();
            // As compaction leaves it: the last record of each key, in order; tombstones may be gone.
            for (i, (key, value)) in log
                .iter()
                .enumerate()
                .filter(|(i, (key, _))| newest[key.as_str()] == *i)
            {
                if value.is_some() || i % 2 == 0 {
                    query.restore(*partition as i32, key, value.as_deref()).unwrap();
                }
            }
            query.begin(*partition as i32);
        }
        let read = owned.iter().map(|p| (*p, self.read[*p])).collect();
        Instance {
            query,
            owned,
            read,
            told: Outcomes::default(),
        }
    }

    fn slab(topic: &str, partition: usize, log: &[Vec<u8>], from: usize, most: usize) -> Slab {
        let mut slab = Slab {
            topic: topic.into(),
            partition: partition as i32,
            ..Slab::default()
        };
        for (i, value) in log.iter().enumerate().skip(from).take(most) {
            slab.push(value, i as i64, Timestamp(0));
        }
        slab
    }

    /// Gives an instance some records of each of its partitions.
    fn feed(&self, instance: &mut Instance, chance: &mut Chance, most: usize) {
        for partition in &instance.owned {
            let read = instance.read.get_mut(partition).unwrap();
            let slab = Self::slab(TOPIC, *partition, &self.source[*partition], read[0], chance.below(most));
            read[0] += slab.len();
            let other = Self::slab(OTHER, *partition, &self.other[*partition], read[2], chance.below(most));
            read[2] += other.len();
            let frames = Self::slab(
                "demo.views.partials",
                *partition,
                &self.partials[*partition],
                read[1],
                chance.below(6),
            );
            read[1] += frames.len();
            instance
                .query
                .on_batch(&[slab, other, frames], Timestamp(self.now))
                .unwrap();
        }
    }

    fn commit(&mut self, instance: &mut Instance) {
        let flow: Flow = instance.query.flush(Timestamp(self.now)).unwrap();
        for emit in flow.emits {
            match &*emit.topic {
                "demo.views.partials" => {
                    self.partials[emit.partition.unwrap() as usize].push(emit.value.unwrap().to_vec());
                }
                "demo.views.late" => self.late.push(emit),
                _ => self.results.push(emit),
            }
        }
        for change in flow.changes {
            self.state[change.partition as usize].push((change.key, change.value));
        }
        self.refused.extend(flow.refused);
        instance.read.iter().for_each(|(p, read)| self.read[*p] = *read);
        let (new, old) = (instance.query.outcomes(), instance.told);
        self.outcomes.counted += new.counted - old.counted;
        self.outcomes.late += new.late - old.late;
        self.outcomes.duplicate += new.duplicate - old.duplicate;
        self.outcomes.refused += new.refused - old.refused;
        self.outcomes.woke += new.woke - old.woke;
        instance.told = new;
    }

    /// Runs everything that was sent, with chance deciding what is cut where and, if `crashes`, who dies when.
    pub(super) fn run(&mut self, instances: usize, seed: u64, most: usize, crashes: bool) {
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let owned = |i: usize, n: usize| (0..n).filter(|p| p % instances == i).collect::<Vec<_>>();
        let mut all: Vec<_> = (0..instances)
            .map(|i| self.start(owned(i, self.source.len())))
            .collect();
        let mut quiet = 0;
        while quiet < 3 * instances {
            let i = chance.below(instances);
            self.feed(&mut all[i], &mut chance, most);
            if crashes && chance.below(7) == 0 {
                all[i] = self.start(owned(i, self.source.len()));
            } else if crashes || chance.below(3) == 0 {
                self.commit(&mut all[i]);
            }
            let ends = |p: usize| [&self.source[p], &self.partials[p], &self.other[p]].map(Vec::len);
            let done = |(p, read): (usize, &[usize; 3])| *read == ends(p);
            let all_told = !all.iter().any(|instance| instance.query.has_more());
            let still = all_told && self.read.iter().enumerate().all(done);
            quiet = (quiet + 1) * usize::from(still);
        }
    }

    /// Lets time pass; partitions that are not in `quiet` get a record meanwhile that changes no window of before.
    pub(super) fn idle(&mut self, quiet: &[usize], micros: i64) {
        self.pass(quiet, micros, 500_000);
    }

    /// The same of an instance that stands still all the while.
    pub(super) fn stall(&mut self, quiet: &[usize], micros: i64) {
        self.pass(quiet, micros, micros);
    }

    /// One instance has all partitions, and takes in all that was sent `meanwhile`, after so long, in one transaction.
    pub(super) fn at_once(&mut self, micros: i64, meanwhile: &[(usize, Flight)]) {
        let mut all = self.start((0..self.source.len()).collect());
        for _ in 0..micros / 500_000 {
            self.now += 500_000;
            self.commit(&mut all);
            self.feed(&mut all, &mut Chance(1), 9);
        }
        meanwhile
            .iter()
            .for_each(|(partition, flight)| self.send(*partition, flight));
        for partition in 0..self.source.len() {
            let read = all.read.get_mut(&partition).unwrap();
            let slab = Self::slab(TOPIC, partition, &self.source[partition], read[0], usize::MAX);
            read[0] += slab.len();
            all.query.on_batch(&[slab], Timestamp(self.now)).unwrap();
        }
        for _ in 0..9 {
            self.commit(&mut all);
            self.feed(&mut all, &mut Chance(1), 9);
        }
    }

    fn pass(&mut self, quiet: &[usize], micros: i64, step: i64) {
        let count = self.source.len();
        let mut all = self.start((0..count).collect());
        let mut chance = Chance(1);
        self.commit(&mut all);
        for _ in 0..micros / step {
            self.now += step;
            self.commit(&mut all);
        }
        for partition in (0..count).filter(|p| !quiet.contains(p)) {
            let mut newest = self.newest(partition);
            newest.id.push_str(" again");
            newest.origin = "ZZZ".to_owned();
            self.send(partition, &newest);
        }
        for _ in 0..8 {
            self.feed(&mut all, &mut chance, 9);
            self.commit(&mut all);
        }
    }

    /// The flight that was sent last to a partition.
    fn newest(&self, partition: usize) -> Flight {
        let mut decoder = decoder(ID, AVRO, None).unwrap();
        decoder.decode(self.source[partition].last().unwrap()).unwrap();
        let batch = decoder.flush().unwrap().unwrap();
        let date = batch
            .column(1)
            .as_primitive::<arrow::datatypes::TimestampMicrosecondType>()
            .value(0);
        Flight {
            id: batch.column(0).as_string::<i32>().value(0).to_owned(),
            date: Some(date),
            delay: None,
            distance: 1,
            origin: String::new(),
            destination: String::new(),
        }
    }

    pub(super) fn registry(&self) -> Arc<dyn Schemas> {
        Arc::new(Registry)
    }

    /// All of a source partition.
    pub(super) fn slab_of(&self, partition: usize) -> Slab {
        Self::slab(TOPIC, partition, &self.source[partition], 0, usize::MAX)
    }

    /// The rows of a view in the end, by key: those that were told last and are not deleted.
    pub(super) fn rows(&self, topic: &str) -> BTreeMap<String, String> {
        let mut out: BTreeMap<String, (i32, String)> = BTreeMap::new();
        for (key, row, revision, deleted) in self.told(topic) {
            if let Some((before, _)) = out.get(&key) {
                assert!(revision > *before, "{key}: revision {revision} after {before}");
            }
            out.insert(key, (revision, if deleted { String::new() } else { row }));
        }
        let rows = out
            .into_iter()
            .filter(|(_, (_, row))| !row.is_empty() && !row.contains("ZZZ"));
        rows.map(|(key, (_, row))| (key, row)).collect()
    }

    /// All rows of a view as they were told: key, columns, revision, deleted.
    pub(super) fn told(&self, topic: &str) -> Vec<(String, String, i32, bool)> {
        let declared = self.program.results();
        let (id, declared) = (RESULTS..).zip(&declared).find(|(_, d)| d.topic == topic).unwrap();
        let mut decoder = decoder(id, &declared.avro_json, None).unwrap();
        let mut out = Vec::new();
        for emit in self.results.iter().filter(|e| &*e.topic == topic) {
            decoder.decode(emit.value.as_ref().unwrap()).unwrap();
            let batch = decoder.flush().unwrap().unwrap();
            let last = batch.num_columns() - 1;
            let deleted = batch.column(last).as_boolean().value(0);
            let revision = batch.column(last - 1).as_primitive::<Int32Type>().value(0);
            let own = batch.project(&(0..last - 1).collect::<Vec<_>>()).unwrap();
            out.push((emit.key.clone(), lines(&own).remove(0), revision, deleted));
        }
        out
    }
}

/// Each row as text.
pub(super) fn lines(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::new().with_null("NULL");
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap())
        .collect();
    let line = |row| {
        columns
            .iter()
            .map(|c| c.value(row).to_string())
            .collect::<Vec<_>>()
            .join(" ")
    };
    (0..batch.num_rows()).map(line).collect()
}

/// What plain DataFusion says of the same flights, in batch.
pub(super) fn batch(flights: &[Flight], sql: &str) -> Vec<String> {
    batch_of(&[("flights", table(flights))], sql)
}

/// Flights as a table.
pub(super) fn table(flights: &[Flight]) -> RecordBatch {
    use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("date", time, true),
        Field::new("delay", DataType::Int64, true),
        Field::new("distance", DataType::Int64, true),
        Field::new("origin", DataType::Utf8, true),
        Field::new("destination", DataType::Utf8, true),
    ]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(
            flights
                .iter()
                .map(|f| f.date)
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("+00:00"),
        ),
        Arc::new(flights.iter().map(|f| f.delay).collect::<Int64Array>()),
        Arc::new(flights.iter().map(|f| Some(f.distance)).collect::<Int64Array>()),
        Arc::new(StringArray::from_iter_values(flights.iter().map(|f| &f.origin))),
        Arc::new(StringArray::from_iter_values(flights.iter().map(|f| &f.destination))),
    ];
    RecordBatch::try_new(schema, columns).unwrap()
}

/// What plain DataFusion says of these tables, in batch.
pub(super) fn batch_of(tables: &[(&str, RecordBatch)], sql: &str) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let context = datafusion::prelude::SessionContext::new();
        for (name, table) in tables {
            context.register_batch(*name, table.clone()).unwrap();
        }
        let found = context.sql(sql).await.unwrap().collect().await.unwrap();
        let mut out: Vec<String> = found.iter().flat_map(lines).collect();
        out.sort();
        out
    })
}
