//! A view of a pipeline's streaming SQL over a bounded history, held against its result topic, and the differences written there by
//! revision. What is computed and compared the engine knows; here is where it comes from, where it goes, and when it is refused.
//!
//! Beside the running stage it is safe because it only takes windows that the stage will never tell again: those that ended longer
//! before the watermark it committed than records may be late. A later revision of the stage can so not meet one written here.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use analytics::streaming::backfill::{Ask, Backfill, Column, ColumnKind, Differences, Kind};
use kafka::{Brokers, History, Past, Registry, Rewriter};
use kernel::{EventTime, Fault, FaultCode, Headers, RawEmit, Slab};
use schemas::Timestamp;
use schemas::topics::{Catalogue, Cleanup};
use sinks::clickhouse::ArrowStream;

use crate::apply::state_topic;
use crate::streaming::{Planned, Written};

/// Records taken in at once. The same cuts every time: what depends on the order of merging comes out the same too.
const RECORDS: usize = 8_192;
/// A slab spans no more of the records' own stamps: what is too far ahead of them is told by the last.
const SPAN: i64 = 60_000_000;
/// Rows of one transaction.
const ROWS: usize = 20_000;

/// Where the history is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The source topic, from its beginning to the end it has now.
    Topic,
    /// Parquet files, one after the other.
    Parquet(Vec<PathBuf>),
    /// A table of the ClickHouse of the environment.
    ClickHouse(String),
}

/// What stands around a backfill.
pub(crate) struct Around<'a> {
    /// The stage, planned.
    pub(crate) planned: &'a Planned,
    /// Brokers.
    pub(crate) brokers: &'a Brokers,
    /// Schemas.
    pub(crate) registry: Arc<Registry>,
    /// Where futures run.
    pub(crate) handle: tokio::runtime::Handle,
    /// Now.
    pub(crate) now: EventTime,
}

/// How to write.
#[derive(Clone, Debug)]
pub(crate) struct Write<'a> {
    /// Only say what would be written.
    pub(crate) dry_run: bool,
    /// The revision of rows of which it is not known how they stand, because retention took their topic's beginning.
    pub(crate) first_revision: Option<i32>,
    /// Rows of these kinds are wanted for people, and how many at most.
    pub(crate) show: (&'a [Kind], usize),
}

fn refused(code: FaultCode, detail: String) -> Fault {
    Fault::new(code, detail)
}

impl Around<'_> {
    /// Begins: nothing is read yet.
    ///
    /// # Errors
    /// `CONFIG_INVALID`: no such view, no such range.
    pub(crate) fn start(&self, ask: &Ask) -> Result<Backfill, Fault> {
        let schemas: Arc<dyn analytics::streaming::Schemas> = Arc::new(Written(self.registry.clone()));
        self.planned.program.backfill(ask, &self.planned.settings, &schemas)
    }

    fn state(&self) -> String {
        let settings = &self.planned.settings;
        state_topic(&settings.pipeline, &settings.stage)
    }

    /// Windows that end until then the running stage will never tell again.
    ///
    /// # Errors
    /// The stage runs another text of the view; a server does not answer.
    pub(crate) fn settled(&self, backfill: &Backfill) -> Result<Option<EventTime>, Fault> {
        let history = History::open(self.brokers, &self.state())?;
        let partitions: Vec<i32> = history.partitions().map(|(p, ..)| p).collect();
        let mut progress = backfill.progress(partitions.iter().copied());
        for partition in partitions {
            history.read(partition, &mut |past| {
                progress.take(partition, &String::from_utf8_lossy(past.key), past.value)
            })?;
        }
        Ok(progress.settled())
    }

    /// Reads the history.
    ///
    /// # Errors
    /// It is not whole, does not fit, or a server does not answer.
    pub(crate) fn read(
        &self,
        backfill: &mut Backfill,
        source: &Source,
        clickhouse: &dyn Fn() -> Result<sinks::clickhouse::Config, Fault>,
    ) -> Result<(), Fault> {
        match source {
            Source::Topic => self.topic(backfill),
            Source::Parquet(files) => {
                for path in files {
                    let name = path.display().to_string();
                    let file = File::open(path)
                        .map_err(|e| refused(FaultCode::InputInvalid, format!("{name} cannot be opened: {e}")))?;
                    backfill.take_parquet(&name, file, self.now)?;
                }
                Ok(())
            }
            Source::ClickHouse(table) => {
                let config = clickhouse()?;
                let name = format!("table {table}");
                self.described(backfill, &config, table, &name)?;
                let bytes = ArrowStream::open(&config, &statement(backfill, table), self.handle.clone())?;
                backfill.take_arrow(&name, bytes, self.now)
            }
        }
    }

    /// Whether a table is there and has the columns.
    fn described(
        &self,
        backfill: &Backfill,
        config: &sinks::clickhouse::Config,
        table: &str,
        name: &str,
    ) -> Result<(), Fault> {
        let reader = sinks::clickhouse::Reader::new(config)?;
        let asked = self
            .handle
            .block_on(reader.query_json(&format!("DESCRIBE TABLE {}", quoted(table))));
        let described = asked.map_err(|fault| match fault.code {
            // The server's own words for it: a table or a database it does not know.
            FaultCode::StoreRefused if fault.detail.contains("UNKNOWN_") => {
                refused(FaultCode::InputInvalid, format!("ClickHouse has no {name}"))
            }
            _ => fault,
        })?;
        let columns = described
            .rows
            .iter()
            .filter_map(|row| row.first().and_then(serde_json::Value::as_str));
        backfill.lacks_none(name, &columns.collect::<Vec<_>>())
    }

    fn topic(&self, backfill: &mut Backfill) -> Result<(), Fault> {
        let topic: Arc<str> = backfill.source().into();
        let catalogue = Catalogue::load().map_err(|e| refused(FaultCode::Internal, e))?;
        if catalogue.get(&topic).is_some_and(|t| t.cleanup == Cleanup::Compact) {
            let detail =
                format!("{topic} is compacted: of each key it keeps the last record only, which is no history");
            return Err(refused(FaultCode::InputInvalid, detail));
        }
        let history = History::open(self.brokers, &topic)?;
        let places: Vec<_> = history.partitions().collect();
        for (partition, first, end) in places {
            let mut cut = Cut::new(&topic, partition, self.now);
            let mut whole = first == 0;
            if first > 0 && first >= end {
                let detail = format!("retention has removed all of partition {partition} of {topic}");
                return Err(refused(
                    FaultCode::InputInvalid,
                    format!("{detail}: take --source FILE.parquet"),
                ));
            }
            let (from, _) = backfill.range();
            history.read(partition, &mut |past| {
                if !whole && past.at > from {
                    return Err(removed(&topic, partition, &past));
                }
                whole = true;
                cut.take(past, &mut |slab, now| backfill.take(slab, now))
            })?;
            cut.give(&mut |slab, now| backfill.take(slab, now))?;
        }
        Ok(())
    }

    /// Holds the rows against those that stand, and writes what differs.
    ///
    /// # Errors
    /// `FENCED` when another backfill of the view began since; what stands cannot be known; a server does not answer.
    pub(crate) fn write(&self, backfill: Backfill, from: &str, how: &Write<'_>) -> Result<Differences, Fault> {
        let (topic, range) = (backfill.topic().to_owned(), backfill.range());
        let (subject, avro) = backfill.schema();
        let id = if how.dry_run {
            0
        } else {
            i32::try_from(self.registry.register(&subject, avro)?).unwrap_or(i32::MAX)
        };
        let view = backfill.view().to_owned();
        let mut found = backfill.finish()?;
        // Before it is read what stands: whoever wrote under this name is out by then, and what it left open is settled.
        let settings = &self.planned.settings;
        let name = format!("{}.{}.backfill.{view}", settings.pipeline, settings.stage);
        let rewriter = (!how.dry_run)
            .then(|| Rewriter::open(self.brokers, &name))
            .transpose()?;
        let history = History::open(self.brokers, &topic)?;
        let places: Vec<_> = history.partitions().collect();
        for (partition, first, end) in places {
            let mut known = first == 0 || how.first_revision.is_some();
            if !known && first >= end {
                return Err(unknown(&topic, partition, "keeps no row any more".to_owned()));
            }
            history.read(partition, &mut |past| {
                if !known && past.at > range.0 {
                    let kept = format!("begins with a row told at {}", past.at);
                    return Err(unknown(&topic, partition, kept));
                }
                known = true;
                match past.value {
                    Some(value) => found.stands(&String::from_utf8_lossy(past.key), value),
                    None => Ok(()),
                }
            })?;
        }
        let headers = Headers::build(|put| put("soma-backfill", from.as_bytes()));
        let differences = found.differences((id, how.first_revision.unwrap_or(0)), &headers, how.show)?;
        if let Some(rewriter) = rewriter {
            self.commit(&rewriter, &differences.emits)?;
        }
        Ok(differences)
    }

    fn commit(&self, rewriter: &Rewriter, rows: &[RawEmit]) -> Result<(), Fault> {
        for (written, some) in rows.chunks(ROWS).enumerate() {
            rewriter.commit(some).map_err(|fault| {
                let detail = format!(
                    "{}; {} of {} rows are written, the rest is when this is run again",
                    fault.detail,
                    written * ROWS,
                    rows.len()
                );
                Fault { detail, ..fault }
            })?;
        }
        Ok(())
    }
}

/// Slabs of a partition, cut alike every time.
struct Cut {
    slab: Slab,
    /// Greatest stamp of a record.
    stamp: i64,
    /// That of the slab's first.
    first: i64,
    now: i64,
}

impl Cut {
    fn new(topic: &Arc<str>, partition: i32, now: EventTime) -> Self {
        let slab = Slab {
            topic: topic.clone(),
            partition,
            ..Slab::default()
        };
        Self {
            slab,
            stamp: 0,
            first: 0,
            now: now.0,
        }
    }

    fn take(
        &mut self,
        past: Past<'_>,
        give: &mut dyn FnMut(&Slab, EventTime) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let Some(value) = past.value else { return Ok(()) };
        let stamp = self.stamp.max(past.at.0);
        if self.slab.len() >= RECORDS || !self.slab.is_empty() && stamp - self.first > SPAN {
            self.give(give)?;
        }
        self.stamp = stamp;
        if self.slab.is_empty() {
            self.first = stamp;
        }
        self.slab.push(value, past.offset, past.at);
        Ok(())
    }

    /// A record too far ahead when it was written stays so, however late it is looked at.
    fn give(&mut self, give: &mut dyn FnMut(&Slab, EventTime) -> Result<(), Fault>) -> Result<(), Fault> {
        if self.slab.is_empty() {
            return Ok(());
        }
        let now = if self.stamp > 0 {
            self.stamp.min(self.now)
        } else {
            self.now
        };
        give(&self.slab, Timestamp(now))?;
        self.slab.values.clear();
        self.slab.ends.clear();
        self.slab.offsets.clear();
        self.slab.at.clear();
        Ok(())
    }
}

fn removed(topic: &str, partition: i32, first: &Past<'_>) -> Fault {
    let detail = format!(
        "retention has removed the beginning of {topic}: partition {partition} begins at offset {}, written {}; windows that begin before cannot be computed from it: take a later --from, or --source FILE.parquet or clickhouse:TABLE",
        first.offset, first.at
    );
    refused(FaultCode::InputInvalid, detail)
}

fn unknown(topic: &str, partition: i32, kept: String) -> Fault {
    let detail = format!(
        "retention has removed rows of {topic}: partition {partition} {kept}; how rows of windows that begin before stand is not known. Take a later --from, or say with --first-revision N from which revision on they are written (above any that was told)"
    );
    refused(FaultCode::InputInvalid, detail)
}

/// A name, `database.table` too, as ClickHouse reads it whatever it is.
fn quoted(name: &str) -> String {
    let one = |part: &str| format!("`{}`", part.replace('\\', "\\\\").replace('`', "\\`"));
    name.split('.').map(one).collect::<Vec<_>>().join(".")
}

/// The rows of a table that may have a say, typed as the source is, in an order that is the same every time.
fn statement(backfill: &Backfill, table: &str) -> String {
    let (from, to) = backfill.needs();
    let time = quoted(backfill.time());
    let columns: Vec<_> = backfill.columns().iter().map(|c| typed(c, &quoted(&c.name))).collect();
    let mut order = vec![time.clone()];
    order.extend(backfill.unique().map(|u| quoted(&u)));
    format!(
        "SELECT {} FROM {} AS t WHERE t.{time} >= fromUnixTimestamp64Micro({}, 'UTC') AND t.{time} <= fromUnixTimestamp64Micro({}, 'UTC') ORDER BY {}",
        columns.join(", "),
        quoted(table),
        from.0,
        to.0,
        order.iter().map(|o| format!("t.{o}")).collect::<Vec<_>>().join(", ")
    )
}

fn typed(column: &Column, name: &str) -> String {
    let made = match column.kind {
        ColumnKind::Time => format!("toDateTime64(t.{name}, 6, 'UTC')"),
        ColumnKind::Day => format!("toDate32(t.{name})"),
        ColumnKind::Text => format!("toString(t.{name})"),
        ColumnKind::Whole(bits) => format!("toInt{bits}(t.{name})"),
        ColumnKind::Float(bits) => format!("toFloat{bits}(t.{name})"),
        ColumnKind::Truth => format!("toBool(t.{name})"),
        ColumnKind::Other => format!("t.{name}"),
    };
    format!("{made} AS {name}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn slabs_are_cut_by_count_and_by_stamp() {
        let now = Timestamp(1_000_000_000_000);
        let mut cut = Cut::new(&"t".into(), 3, now);
        let mut slabs = Vec::new();
        let past = |offset: i64, at: i64| Past {
            key: b"",
            value: Some(b"v"),
            offset,
            at: Timestamp(at),
        };
        let mut give = |slab: &Slab, now: EventTime| {
            slabs.push((slab.partition, slab.offsets[0], slab.len(), now.0));
            Ok(())
        };
        for (offset, at) in [(0, 10), (1, 5), (2, SPAN + 10), (4, SPAN + 11), (5, i64::MAX)] {
            cut.take(past(offset, at), &mut give).unwrap();
        }
        for offset in 0..=RECORDS as i64 {
            cut.take(past(10 + offset, 0), &mut give).unwrap();
        }
        cut.give(&mut give).unwrap();
        cut.give(&mut give).unwrap();
        assert_eq!(
            slabs,
            [
                (3, 0, 3, SPAN + 10),
                (3, 4, 1, SPAN + 11),
                (3, 5, RECORDS, now.0),
                (3, 9 + RECORDS as i64, 2, now.0)
            ]
        );
    }
}
