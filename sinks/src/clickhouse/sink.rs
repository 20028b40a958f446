//! The write side: batches become one insert per table and partition, each row once whatever is delivered again.

use std::collections::{BTreeMap, HashMap};

use kernel::{Decoder, Fault, FaultCode, Pending, RawRecord, Rejected, Sink};
use schemas::Timestamp;
use schemas::records::{AuditEntry, Checkpoint, Event, Metric, Outcome, Run, Verdict};
use schemas::topics;

use super::insert::{insert_facts, inserting};
use super::positions::{self, Kept};
use super::rows::Stored;
use super::{Config, Server, minutes};
use crate::batch;

/// Keeps `soma.events`, `soma.runs`, `soma.verdicts`, `soma.outcomes`, `soma.metrics`, `soma.audit` and `soma.checkpoints`.
pub struct ClickHouseSink {
    server: Server,
    places: HashMap<Place, Stand>,
}

/// A partition of a topic.
pub(super) type Place = (String, i32);

/// What is known of a partition.
#[derive(Default)]
struct Stand {
    /// Asked since the partition was assigned.
    known: bool,
    /// Our own rows have been seen since: whoever had the partition before can begin an insert only where ours did, and is refused.
    alone: bool,
    /// What ClickHouse holds; `None` when it holds nothing.
    kept: Option<Kept>,
    /// An insert whose end we never learnt. It is made again with the same rows and token before anything else, so that
    /// ClickHouse recognises it whether or not it happened; and then its rows are looked for.
    in_doubt: Option<Box<dyn Chunk>>,
}

/// Rows of one insert.
trait Chunk: Send + Sync {
    /// Inserts its rows and sees that they are there: what is kept of its partition then.
    fn settle<'a>(&'a mut self, server: &'a Server, place: &'a Place) -> Pending<'a, Result<Option<Kept>, Fault>>;
}

struct Rows<R: Stored> {
    rows: Vec<R::Row>,
    token: String,
    /// Offset of its first row.
    first: i64,
    /// What will be kept once it is in.
    kept: Kept,
}

impl<R: Stored> Chunk for Rows<R> {
    fn settle<'a>(&'a mut self, server: &'a Server, place: &'a Place) -> Pending<'a, Result<Option<Kept>, Fault>> {
        Box::pin(async move {
            self.insert(server).await?;
            let now = self.find(server, place).await?;
            whole::<R>(server, place, now).await
        })
    }
}

impl<R: Stored> Rows<R> {
    async fn insert(&self, server: &Server) -> Result<(), Fault> {
        insert_facts(server, R::TABLE, &self.rows, &self.token).await
    }

    /// Looks for the rows of an insert that was taken, and keeps them in another go when they are not there: a server killed in the
    /// middle of an insert may know its token ever after and have none of its rows. The insert that was taken has fed the
    /// minute tables, so these rows are marked as counted.
    ///
    /// Who else inserts from the same place cannot come in between: under a token that was taken nothing is kept any more, and an
    /// insert that is still under way is waited for, looked for before the table is.
    ///
    /// # Errors
    /// As every statement; `STORE_UNAVAILABLE` while such an insert is under way, and when no go is ever seen.
    async fn find(&mut self, server: &Server, place: &Place) -> Result<Option<Kept>, Fault> {
        let shown = format!("{}/{} from offset {} on", place.0, place.1, self.first);
        for go in 0..=GOES_MAX {
            // Most often it is there, and nothing else is asked.
            let mut now = kept(server, R::TABLE, place).await?;
            if now.is_none_or(|now| now.offset < self.first) {
                if inserting(server, &self.token).await? {
                    let detail = format!("ClickHouse, an insert of {shown} into {} is still under way", R::TABLE);
                    return Err(Fault::new(FaultCode::StoreUnavailable, detail));
                }
                now = kept(server, R::TABLE, place).await?;
            }
            if now.is_some_and(|now| now.offset >= self.first) {
                // Who tried before may have fed the minute tables fewer rows.
                return if go == 0 {
                    Ok(now)
                } else {
                    whole::<R>(server, place, now).await
                };
            }
            if go < GOES_MAX {
                tracing::warn!(table = R::TABLE, token = %self.token, go, "ClickHouse knows the insert and has none of its rows: kept again");
                self.rows.iter_mut().for_each(R::again);
                insert_facts(server, R::TABLE, &self.rows, &format!("{}+{}", self.token, go + 1)).await?;
            }
        }
        let detail = format!(
            "ClickHouse took inserts of {shown} under {GOES_MAX} tokens and {} shows none of them: does another replica answer that lags, \
             or does the table's TTL drop rows this old?",
            R::TABLE
        );
        Err(Fault::new(FaultCode::StoreUnavailable, detail))
    }
}

/// As many tokens are tried for the same rows. Each takes a server killed within one insert of them.
pub(super) const GOES_MAX: usize = 8;

impl ClickHouseSink {
    /// Makes the sink and sees whether ClickHouse is there and knows us.
    ///
    /// # Errors
    /// `CONFIG_INVALID`; `STORE_UNAVAILABLE` when it does not answer; `STORE_REFUSED` when it does not know us.
    pub async fn connect(config: &Config) -> Result<Self, Fault> {
        let sink = Self {
            server: Server::new(config)?,
            places: HashMap::new(),
        };
        sink.probe().await?;
        Ok(sink)
    }

    /// Whether ClickHouse answers.
    ///
    /// # Errors
    /// As [`ClickHouseSink::connect`].
    pub async fn probe(&self) -> Result<(), Fault> {
        self.server.probe().await
    }

    async fn keep(
        &mut self,
        place: Place,
        raws: &[(usize, &RawRecord)],
        decoder: &dyn Decoder,
    ) -> Result<Vec<Rejected>, Fault> {
        let topic = place.0.as_str();
        if topic == topics::EVENTS.name {
            self.keep_as::<Event>(place, raws, decoder).await
        } else if topic == topics::RUNS.name {
            self.keep_as::<Run>(place, raws, decoder).await
        } else if topic == topics::VERDICTS.name {
            self.keep_as::<Verdict>(place, raws, decoder).await
        } else if topic == topics::OUTCOMES.name {
            self.keep_as::<Outcome>(place, raws, decoder).await
        } else if topic == topics::METRICS.name {
            self.keep_as::<Metric>(place, raws, decoder).await
        } else if topic == topics::AUDIT.name {
            self.keep_as::<AuditEntry>(place, raws, decoder).await
        } else if topic == topics::CHECKPOINTS.name {
            self.keep_as::<Checkpoint>(place, raws, decoder).await
        } else {
            Err(Fault::new(
                FaultCode::Internal,
                format!("topic {topic} is not kept in ClickHouse"),
            ))
        }
    }

    async fn keep_as<R: Stored>(
        &mut self,
        place: Place,
        raws: &[(usize, &RawRecord)],
        decoder: &dyn Decoder,
    ) -> Result<Vec<Rejected>, Fault> {
        let mut rejected = Vec::new();
        let (mut rows, mut stamps) = (Vec::with_capacity(raws.len()), Vec::with_capacity(raws.len()));
        for (index, raw) in raws {
            // A tombstone of a compacted topic says that the log forgets a run, not that history did not happen.
            let read = batch::or_reject(batch::decode::<R>(raw, decoder), *index, &mut rejected)?.flatten();
            if let Some(record) = read {
                rows.push(record.row(raw));
                stamps.push((raw.position.offset, raw.at));
            }
        }
        self.insert_new::<R>(place, rows, &stamps).await?;
        Ok(rejected)
    }

    async fn insert_new<R: Stored>(
        &mut self,
        place: Place,
        mut rows: Vec<R::Row>,
        mut stamps: &[(i64, Timestamp)],
    ) -> Result<(), Fault> {
        let stand = self.places.entry(place.clone()).or_default();
        if let Some(chunk) = &mut stand.in_doubt {
            stand.kept = chunk.settle(&self.server, &place).await?;
            (stand.known, stand.in_doubt) = (true, None);
        }
        if !stand.known {
            let now = kept(&self.server, R::TABLE, &place).await?;
            stand.kept = whole::<R>(&self.server, &place, now).await?;
            stand.known = true;
        }
        let shown = format!("{}/{}", place.0, place.1);
        loop {
            let skip = positions::kept_already(&shown, stamps, stand.kept)?;
            stamps = stamps.get(skip..).unwrap_or_default();
            rows.drain(..skip);
            let (Some(first), Some((last, _))) = (stamps.first(), stamps.last()) else {
                return Ok(());
            };
            let at = stamps.iter().map(|(_, at)| *at).max().unwrap_or_default();
            let mut chunk = Rows::<R> {
                rows,
                token: positions::token(&place.0, place.1, *first),
                first: first.0,
                kept: Kept { offset: *last, at },
            };
            // Once our own rows have been seen, a new token that is taken is rows that are kept: nobody asks after each insert.
            let now = match chunk.insert(&self.server).await {
                Ok(()) if stand.alone => {
                    stand.kept = later(stand.kept, Some(chunk.kept));
                    return Ok(());
                }
                // Somebody who had the partition before may have written the rows behind the same place first, and fewer of them.
                Ok(()) => chunk.find(&self.server, &place).await,
                Err(fault) => Err(fault),
            };
            match now {
                Ok(now) => (stand.kept, stand.known) = (now, true),
                Err(fault) => {
                    stand.known = false;
                    if fault.code == FaultCode::StoreUnavailable {
                        stand.in_doubt = Some(Box::new(chunk));
                    }
                    return Err(fault);
                }
            }
            stand.alone = stand.kept.is_some_and(|now| now.offset == *last);
            rows = chunk.rows;
        }
    }
}

/// What is kept, once the minute tables have counted it.
async fn whole<R: Stored>(server: &Server, place: &Place, now: Option<Kept>) -> Result<Option<Kept>, Fault> {
    if let Some(kept) = now {
        minutes::complete(server, R::TABLE, place, kept.offset).await?;
    }
    Ok(now)
}

fn later(a: Option<Kept>, b: Option<Kept>) -> Option<Kept> {
    match (a, b) {
        (Some(a), Some(b)) => Some(Kept {
            offset: a.offset.max(b.offset),
            at: a.at.max(b.at),
        }),
        (a, b) => a.or(b),
    }
}

/// Asks how far a partition has been kept.
///
/// # Errors
/// As every statement.
async fn kept(server: &Server, table: &str, (topic, partition): &Place) -> Result<Option<Kept>, Fault> {
    let sql = format!(
        "SELECT count() > 0 AS some, max(_offset) AS top, toUnixTimestamp64Micro(max(_at)) AS at \
         FROM {table} WHERE _topic = {{topic: String}} AND _partition = {{partition: Int32}}"
    );
    let query = server
        .client
        .query_raw(&sql)
        .param("topic", topic)
        .param("partition", partition);
    let (some, offset, at) = server
        .run(
            &format!("SELECT max(_offset) FROM {table}"),
            query.fetch_one::<(bool, i64, i64)>(),
        )
        .await?;
    Ok(some.then_some(Kept {
        offset,
        at: Timestamp(at),
    }))
}

impl Sink for ClickHouseSink {
    fn name(&self) -> &'static str {
        "clickhouse_sink"
    }

    fn topics(&self) -> Vec<&'static str> {
        vec![
            Event::TOPIC.name,
            Run::TOPIC.name,
            Verdict::TOPIC.name,
            Outcome::TOPIC.name,
            Metric::TOPIC.name,
            AuditEntry::TOPIC.name,
            Checkpoint::TOPIC.name,
        ]
    }

    fn write<'a>(
        &'a mut self,
        batch: &'a [RawRecord],
        decoder: &'a dyn Decoder,
    ) -> Pending<'a, Result<Vec<Rejected>, Fault>> {
        Box::pin(async move {
            let mut by_place: BTreeMap<Place, Vec<(usize, &RawRecord)>> = BTreeMap::new();
            for (index, raw) in batch.iter().enumerate() {
                let place = (raw.position.topic.to_string(), raw.position.partition);
                by_place.entry(place).or_default().push((index, raw));
            }
            let mut rejected = Vec::new();
            for (place, raws) in by_place {
                rejected.extend(self.keep(place, &raws, decoder).await?);
            }
            rejected.sort_by_key(|r| r.index);
            Ok(rejected)
        })
    }

    fn reassigned(&mut self) {
        self.places.clear();
    }
}
