//! Lookups: compacted topics that every instance holds whole, by primary key, so that a stream's rows are enriched before their window.
//!
//! Which version of a row applies: the newest that was read when the stream's record is processed. Each time partitions are given to
//! an instance, and after every failure, it first reads the topics to the ends they have then; so nothing is joined with an older
//! version than was joined before. What was joined is in the partial results that are committed with the offsets: a crash counts
//! nothing twice and changes nothing that was counted. Records that were not committed are joined anew, perhaps with newer versions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::common::{DataFusionError, Result as Done};
use kernel::{Change, ConfigFault, Fault, FaultCode, Flow, Refused, Slab};

use super::dialect::{Table as Declared, at};
use super::local::failed;
use super::program::some;
use super::reader::{Reader, prune};
use super::settings::{Follow, Looked, Schemas, Settings};

/// So many pieces are put together.
const CHUNKS: usize = 256;
/// What a row takes beside its columns, about: its key twice, and where it stands.
const EACH: usize = 160;

/// A lookup that views join.
#[derive(Clone, Debug)]
pub(crate) struct Lookup {
    pub(crate) name: String,
    pub(crate) topic: Arc<str>,
    /// Columns that views take, and the primary key.
    pub(crate) columns: SchemaRef,
    wanted: String,
    /// Columns of the primary key.
    pub(crate) key: Vec<String>,
}

impl Lookup {
    /// Whether a table can be one.
    pub(crate) fn check(table: &Declared, columns: &SchemaRef) -> Result<(), Vec<ConfigFault>> {
        let fault = |detail: String| Err(vec![ConfigFault::new(at(table.at), detail)]);
        let name = &table.name;
        if table.key.is_empty() {
            return fault(format!(
                "lookup `{name}` has no primary key: write PRIMARY KEY behind the column it is looked up by"
            ));
        }
        if table.watermark.is_some() {
            return fault(format!("lookup `{name}` has no time of its own: take WATERMARK out"));
        }
        for key in &table.key {
            match columns.field_with_name(key).map(|f| f.data_type()) {
                Err(_) => {
                    return fault(format!(
                        "the primary key of `{name}` names `{key}`, which is not a column"
                    ));
                }
                Ok(kind) if kind.is_floating() || kind.is_nested() => {
                    return fault(format!(
                        "the primary key `{key}` of `{name}` is {kind}: a key is a text, a whole number or a time"
                    ));
                }
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// A lookup of which views take columns.
    pub(crate) fn of(
        table: &Declared,
        columns: &SchemaRef,
        takes: &[&SchemaRef],
        sources: &BTreeMap<String, String>,
    ) -> Result<Self, Vec<ConfigFault>> {
        let mut wanted: BTreeSet<&str> = takes
            .iter()
            .flat_map(|t| t.fields())
            .map(|f| f.name().as_str())
            .collect();
        wanted.extend(table.key.iter().map(String::as_str));
        let columns = some(columns, &|name| wanted.contains(name));
        let json = sources.get(&table.options.topic).map_or("", String::as_str);
        let pruned = prune(json, &|name| columns.field_with_name(name).is_ok());
        Ok(Self {
            name: table.name.clone(),
            topic: table.options.topic.as_str().into(),
            wanted: pruned.map_err(|detail| vec![ConfigFault::new(at(table.at), detail)])?,
            columns,
            key: table.key.clone(),
        })
    }
}

/// Which of several records with one primary key applies: the one with the latest stamp.
type Stamp = (i64, i32, i64);

/// A row of a record.
struct Row {
    stamp: Stamp,
    record: Arc<[u8]>,
    /// Chunk, and row in it.
    slot: (u32, u32),
}

/// A lookup as it stands.
struct Table {
    lookup: Lookup,
    reader: Reader,
    converter: RowConverter,
    chunks: Vec<RecordBatch>,
    rows: usize,
    /// By primary key.
    by_key: HashMap<Box<[u8]>, Vec<Row>>,
    /// The primary key of each record, by the record's own key.
    records: HashMap<Arc<[u8]>, Box<[u8]>>,
    /// Records nobody can read: by partition and offset.
    bad: BTreeMap<i32, BTreeMap<i64, Fault>>,
    /// Bytes of keys and what goes with them.
    held: usize,
    unmatched: AtomicUsize,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Tables(Vec<Table>);

fn broken(detail: &str) -> DataFusionError {
    DataFusionError::Internal(detail.to_owned())
}

impl Tables {
    fn get(&self, name: &str) -> Done<&Table> {
        let found = self.0.iter().find(|t| t.lookup.name == name);
        found.ok_or_else(|| broken("a lookup of the plan is not held"))
    }

    /// By row of `keys`, whether there is a row for it; and those rows, with these columns, in that order.
    pub(crate) fn find(&self, name: &str, keys: &[ArrayRef], columns: &SchemaRef) -> Done<(Vec<bool>, RecordBatch)> {
        let table = self.get(name)?;
        let converted = table.converter.convert_columns(keys)?;
        let null = |row: usize| keys.iter().any(|k| k.is_null(row));
        let slot = |row: usize| {
            let rows = if null(row) {
                None
            } else {
                table.by_key.get(converted.row(row).as_ref())
            };
            rows.and_then(|rows| rows.iter().max_by_key(|r| r.stamp))
                .map(|r| r.slot)
        };
        let slots: Vec<_> = (0..converted.num_rows()).map(slot).collect();
        let found = slots.iter().map(Option::is_some).collect();
        let chosen: Vec<_> = slots.into_iter().flatten().collect();
        Ok((found, table.gather(&chosen, columns)?))
    }

    /// So many rows of a stream found nothing.
    pub(crate) fn unmatched(&self, name: &str, count: usize) {
        if let Ok(table) = self.get(name) {
            table.unmatched.fetch_add(count, Ordering::Relaxed);
        }
    }
}

impl Table {
    fn new(lookup: &Lookup, schemas: &Arc<dyn Schemas>) -> Result<Self, Fault> {
        let field = |name: &String| {
            let kind = lookup.columns.field_with_name(name).map(|f| f.data_type().clone());
            kind.map(SortField::new)
        };
        let fields: Result<Vec<_>, _> = lookup.key.iter().map(field).collect();
        let converter = fields.and_then(RowConverter::new).map_err(|e| failed(e.into()))?;
        let (topic, columns) = (Arc::clone(&lookup.topic), Arc::clone(&lookup.columns));
        Ok(Self {
            reader: Reader::new(topic, lookup.wanted.clone(), columns, Arc::clone(schemas)),
            lookup: lookup.clone(),
            converter,
            chunks: Vec::new(),
            rows: 0,
            by_key: HashMap::new(),
            records: HashMap::new(),
            bad: BTreeMap::new(),
            held: 0,
            unmatched: AtomicUsize::new(0),
        })
    }

    /// Rows at these places.
    fn gather(&self, slots: &[(u32, u32)], columns: &SchemaRef) -> Done<RecordBatch> {
        if slots.is_empty() {
            return Ok(RecordBatch::new_empty(Arc::clone(columns)));
        }
        let used: BTreeSet<u32> = slots.iter().map(|s| s.0).collect();
        let place: HashMap<u32, usize> = used.iter().enumerate().map(|(i, chunk)| (*chunk, i)).collect();
        let places: Vec<(usize, usize)> = slots.iter().map(|s| (place[&s.0], s.1 as usize)).collect();
        let mut arrays = Vec::with_capacity(columns.fields().len());
        for field in columns.fields() {
            let index = self.lookup.columns.index_of(field.name())?;
            let parts: Vec<&dyn Array> = used
                .iter()
                .map(|c| self.chunks[*c as usize].column(index).as_ref())
                .collect();
            arrays.push(interleave(&parts, &places)?);
        }
        Ok(RecordBatch::try_new(Arc::clone(columns), arrays)?)
    }

    /// Takes records of one partition in, in order.
    fn take(&mut self, records: &[&Looked]) -> Result<(), Fault> {
        let Some(first) = records.first() else { return Ok(()) };
        let mut slab = Slab {
            topic: Arc::clone(&self.lookup.topic),
            partition: first.partition,
            ..Slab::default()
        };
        let mut which = Vec::new();
        for (i, looked) in records.iter().enumerate() {
            if let Some(value) = &looked.value {
                slab.push(value, looked.offset, looked.at);
                which.push(i);
            }
        }
        let (mut batches, mut bad) = (Vec::new(), Vec::new());
        self.reader.read(
            &slab,
            &mut |taken| {
                batches.push(taken);
                Ok(())
            },
            &mut |index, fault| bad.push((index, fault)),
        )?;
        let mut rows: Vec<Option<(Box<[u8]>, (u32, u32))>> = (0..records.len()).map(|_| None).collect();
        for taken in batches {
            let key = |name: &String| taken.batch.column_by_name(name).cloned();
            let keys: Vec<ArrayRef> = self.lookup.key.iter().filter_map(key).collect();
            let converted = self.converter.convert_columns(&keys).map_err(|e| failed(e.into()))?;
            let chunk = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
            for (row, index) in taken.rows.iter().enumerate() {
                let index = *index as usize;
                match keys.iter().position(|k| k.is_null(row)) {
                    Some(nth) => {
                        let detail = format!("field `{}` is null: a primary key has a value", self.lookup.key[nth]);
                        bad.push((index, Fault::new(FaultCode::RecordInvalid, detail)));
                    }
                    None => {
                        let slot = (chunk, u32::try_from(row).unwrap_or(u32::MAX));
                        rows[which[index]] = Some((Box::from(converted.row(row).as_ref()), slot));
                    }
                }
            }
            self.rows += taken.batch.num_rows();
            self.chunks.push(taken.batch);
        }
        let offset = |(index, fault): (usize, Fault)| slab.offsets.get(index).map(|offset| (*offset, fault));
        let bad: Vec<_> = bad.into_iter().filter_map(offset).collect();
        if !bad.is_empty() {
            self.bad.entry(first.partition).or_default().extend(bad);
        }
        for (looked, row) in records.iter().zip(rows) {
            match (row, &looked.value) {
                (Some((key, slot)), _) => self.put(looked, key, slot),
                (None, None) => self.remove(&looked.key),
                // Bad bytes must not hide what stands.
                (None, Some(_)) => {}
            }
        }
        self.tidy().map_err(failed)
    }

    fn put(&mut self, looked: &Looked, key: Box<[u8]>, slot: (u32, u32)) {
        self.remove(&looked.key);
        let record: Arc<[u8]> = looked.key.as_slice().into();
        self.held += held(&record, &key);
        self.records.insert(Arc::clone(&record), key.clone());
        self.by_key.entry(key).or_default().push(Row {
            stamp: (looked.at.0, looked.partition, looked.offset),
            record,
            slot,
        });
    }

    fn remove(&mut self, record: &[u8]) {
        let Some(key) = self.records.remove(record) else { return };
        self.held -= held(record, &key);
        if let Some(rows) = self.by_key.get_mut(&key) {
            rows.retain(|row| *row.record != *record);
            if rows.is_empty() {
                self.by_key.remove(&key);
            }
        }
    }

    /// Puts pieces together when there are many, or when half of what they hold is of the past.
    fn tidy(&mut self) -> Done<()> {
        if self.chunks.len() <= CHUNKS && self.rows <= 2 * self.records.len() + 1_024 {
            return Ok(());
        }
        let mut slots = Vec::with_capacity(self.records.len());
        for row in self.by_key.values_mut().flatten() {
            slots.push(row.slot);
            row.slot = (0, u32::try_from(slots.len() - 1).unwrap_or(u32::MAX));
        }
        let all = self.gather(&slots, &self.lookup.columns)?;
        let own = |array: &ArrayRef| match array.data_type() {
            // A view would keep all the memory it came from.
            DataType::Utf8View => Arc::new(array.as_string_view().gc()) as ArrayRef,
            DataType::BinaryView => Arc::new(array.as_binary_view().gc()),
            _ => Arc::clone(array),
        };
        let columns = all.columns().iter().map(own).collect();
        self.rows = slots.len();
        self.chunks = vec![RecordBatch::try_new(all.schema(), columns)?];
        Ok(())
    }

    fn size(&self) -> usize {
        let chunks = self
            .chunks
            .iter()
            .map(RecordBatch::get_array_memory_size)
            .sum::<usize>();
        chunks + self.held + self.bad.values().map(BTreeMap::len).sum::<usize>() * EACH
    }
}

fn held(record: &[u8], key: &[u8]) -> usize {
    record.len() + 2 * key.len() + EACH
}

/// The lookups of one instance, and where their records come from.
#[derive(Default)]
pub(crate) struct Lookups {
    pub(crate) tables: Tables,
    pub(crate) follow: Option<Box<dyn Follow>>,
    /// What was read and could not be taken in yet: the registry did not answer.
    pending: Vec<Looked>,
    /// Partitions were given: the topics are to be read to their ends.
    behind: bool,
    /// By topic and partition: bad records before this offset are in the dead-letter topic.
    told: BTreeMap<(Arc<str>, i32), i64>,
    bytes_max: usize,
    partitions: i32,
    size: usize,
}

impl Lookups {
    pub(crate) fn new(lookups: &[Lookup], settings: &Settings, schemas: &Arc<dyn Schemas>) -> Result<Self, Fault> {
        let tables = lookups.iter().map(|lookup| Table::new(lookup, schemas));
        Ok(Self {
            tables: Tables(tables.collect::<Result<_, _>>()?),
            behind: true,
            bytes_max: settings.lookup_bytes_max,
            partitions: settings.partitions.max(1),
            ..Self::default()
        })
    }

    /// Partitions were given, or given again after a failure.
    pub(crate) fn begin(&mut self) {
        self.behind = true;
    }

    /// Takes in what there is; after partitions were given, everything until the topics' ends.
    pub(crate) fn keep_up(&mut self) -> Result<(), Fault> {
        if self.tables.0.is_empty() {
            return Ok(());
        }
        self.take_in(Vec::new())?;
        let Some(mut follow) = self.follow.take() else {
            let detail = "the lookups of the query have nobody who reads them";
            return Err(Fault::new(FaultCode::Internal, detail));
        };
        let read = self.read(follow.as_mut());
        self.follow = Some(follow);
        read
    }

    fn read(&mut self, follow: &mut dyn Follow) -> Result<(), Fault> {
        if self.behind {
            follow.to_the_ends(&mut |records| self.take_in(records))?;
            self.behind = false;
            return Ok(());
        }
        let records = follow.at_hand()?;
        self.take_in(records)
    }

    fn take_in(&mut self, records: Vec<Looked>) -> Result<(), Fault> {
        self.pending.extend(records);
        if self.pending.is_empty() {
            return Ok(());
        }
        // Taken in again after a failure, records stand as they did.
        for table in &mut self.tables.0 {
            let mut by: BTreeMap<i32, Vec<&Looked>> = BTreeMap::new();
            for looked in self.pending.iter().filter(|l| l.topic == table.lookup.topic) {
                by.entry(looked.partition).or_default().push(looked);
            }
            for records in by.values() {
                table.take(records)?;
            }
        }
        self.pending.clear();
        self.size = self.tables.0.iter().map(Table::size).sum();
        if self.size > self.bytes_max {
            let each = |t: &Table| format!("{} {} rows", t.lookup.name, t.records.len());
            let all: Vec<_> = self.tables.0.iter().map(each).collect();
            let detail = format!(
                "lookups take {} bytes ({}), more than lookup_bytes_max ({}): raise lookup_mb_max, take fewer columns, or join large tables as streams",
                self.size,
                all.join(", "),
                self.bytes_max
            );
            return Err(Fault::new(FaultCode::ConfigInvalid, detail));
        }
        Ok(())
    }

    /// Dead letters of records nobody can read. Each once, by the instance that owns the partition of the state where that is noted.
    pub(crate) fn flush(&mut self, owned: &BTreeSet<i32>, flow: &mut Flow) {
        for table in &self.tables.0 {
            for (partition, bad) in &table.bad {
                let home = partition.rem_euclid(self.partitions);
                if !owned.contains(&home) {
                    continue;
                }
                let place = (Arc::clone(&table.lookup.topic), *partition);
                let from = self.told.get(&place).copied().unwrap_or(0);
                let Some((last, _)) = bad.range(from..).next_back() else {
                    continue;
                };
                flow.refused.extend(bad.range(from..).map(|(offset, fault)| Refused {
                    topic: Arc::clone(&place.0),
                    partition: *partition,
                    offset: *offset,
                    fault: fault.clone(),
                }));
                flow.changes.push(Change {
                    partition: home,
                    key: format!("k|{}|{partition}", place.0),
                    value: Some((last + 1).to_le_bytes().to_vec()),
                });
                self.told.insert(place, last + 1);
            }
        }
    }

    /// Takes back what [`Lookups::flush`] noted.
    pub(crate) fn restore(&mut self, topic: &str, rest: &str, value: Option<&[u8]>) -> Result<(), Fault> {
        let wrong = || {
            Fault::new(
                FaultCode::StateUnreadable,
                format!("how far lookup {topic} was told cannot be read"),
            )
        };
        let partition: i32 = rest.parse().map_err(|_| wrong())?;
        let Some(value) = value else { return Ok(()) };
        let offset = value.first_chunk::<8>().ok_or_else(wrong)?;
        self.told.insert((topic.into(), partition), i64::from_le_bytes(*offset));
        Ok(())
    }

    /// A partition of the state goes.
    pub(crate) fn release(&mut self, partition: i32) {
        let partitions = self.partitions;
        self.told.retain(|(_, p), _| p.rem_euclid(partitions) != partition);
    }

    /// What is counted of them.
    pub(crate) fn gauges(&self, out: &mut Vec<(&'static str, usize)>) {
        if self.tables.0.is_empty() {
            return;
        }
        out.push(("lookup_rows", self.tables.0.iter().map(|t| t.records.len()).sum()));
        out.push(("lookup_bytes", self.size));
        let unmatched = |t: &Table| t.unmatched.load(Ordering::Relaxed);
        out.push(("unmatched", self.tables.0.iter().map(unmatched).sum()));
    }
}
