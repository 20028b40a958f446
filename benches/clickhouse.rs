//! A topic of events kept in ClickHouse by the production loop and sink: rows sent row by row (RowBinary) and column by column
//! (Native), by turns, each time into tables of their own, which must be alike at the end.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use kernel::{Decoder, Fault, Pending, RawRecord, Rejected, Sink};
use runtime::{Limits, SinkStage, Stage};
use schemas::topics::EVENTS;
use sinks::clickhouse::{ClickHouseSink, Config, Reader, migrate};
use tokio::runtime::Runtime;

use crate::analytics::{self, Fill};
use crate::common::{brokers, cpu_s, now, registry, surroundings, text, tokio};

/// Batches of a size: of small ones fewer records, or they take all the time.
const BATCHES: usize = 200;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Brokers.
    #[arg(long)]
    brokers: String,
    /// Schema registry.
    #[arg(long)]
    registry: String,
    /// ClickHouse, `http://HOST:PORT`.
    #[arg(long)]
    clickhouse: String,
    /// `user:password` there.
    #[arg(long)]
    clickhouse_user: String,
    /// Process of the ClickHouse server: its processor time counts too.
    #[arg(long)]
    clickhouse_pid: u32,
    /// Records in the topic.
    #[arg(long, default_value_t = 600_000)]
    records: u64,
    /// Records of one batch and insert; the last figures are of the last.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 500, 5_000, 20_000])]
    batches: Vec<usize>,
    /// Rounds; in each, every batch size both ways.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// How rows are sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Rows,
    Columns,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Rows => "rowbinary",
            Self::Columns => "bulk",
        }
    }

    /// From how many rows on columns are sent.
    fn bulk_rows_min(self) -> usize {
        match self {
            Self::Rows => usize::MAX,
            Self::Columns => 1,
        }
    }
}

/// The production sink, and how many records it has kept.
struct Counted {
    sink: ClickHouseSink,
    kept: Arc<AtomicU64>,
}

impl Sink for Counted {
    fn name(&self) -> &'static str {
        self.sink.name()
    }

    fn topics(&self) -> Vec<&'static str> {
        vec![EVENTS.name]
    }

    fn write<'a>(
        &'a mut self,
        batch: &'a [RawRecord],
        decoder: &'a dyn Decoder,
    ) -> Pending<'a, Result<Vec<Rejected>, Fault>> {
        Box::pin(async move {
            let rejected = self.sink.write(batch, decoder).await?;
            self.kept.fetch_add(batch.len() as u64, Ordering::Relaxed);
            Ok(rejected)
        })
    }

    fn reassigned(&mut self) {
        self.sink.reassigned();
    }
}

/// What one way took, seconds.
#[derive(Clone, Copy, Default)]
struct Took {
    wall: f64,
    ours: f64,
    server: f64,
}

struct Bench<'a> {
    options: &'a Options,
    runtime: Runtime,
}

impl Bench<'_> {
    fn config(&self, database: &str, way: Way) -> Config {
        let (user, password) = self.options.clickhouse_user.split_once(':').unwrap_or_default();
        Config {
            url: self.options.clickhouse.clone(),
            database: database.to_owned(),
            user: user.to_owned(),
            password: password.to_owned(),
            timeout_ms: 30_000,
            bulk_rows_min: way.bulk_rows_min(),
        }
    }

    /// Keeps `records` of the topic from its beginning on.
    fn keep(&self, database: &str, way: Way, (batch, records): (usize, u64)) -> Result<Took, String> {
        let config = self.config(database, way);
        self.runtime.block_on(migrate(&config)).map_err(text)?;
        let sink = self.runtime.block_on(ClickHouseSink::connect(&config)).map_err(text)?;
        let at = brokers(&self.options.brokers);
        let registry = registry(&self.options.registry, &self.runtime)?;
        let limits = Limits {
            batch_max: batch,
            linger_ms: 1_000,
            ..Limits::default()
        };
        let mut cx = surroundings(&at, &registry, &self.runtime, (database, EVENTS.name), limits)?;
        let kept = Arc::new(AtomicU64::new(0));
        let mut stage = SinkStage::new(Counted {
            sink,
            kept: kept.clone(),
        });
        let (mut since, so_far) = (None, || kept.load(Ordering::Relaxed));
        while so_far() < records {
            stage.go_round(&mut cx).map_err(text)?;
            // Joining the group is not what is measured, nor the first batch.
            if since.is_none() && so_far() > 0 {
                since = Some((Instant::now(), self.cpu(), so_far()));
            }
        }
        let (began, before, first) = since.ok_or("no records")?;
        let after = self.cpu();
        #[allow(clippy::cast_precision_loss, reason = "a share of records")]
        let whole = records as f64 / (so_far() - first).max(1) as f64;
        Ok(Took {
            wall: began.elapsed().as_secs_f64() * whole,
            ours: (after.0 - before.0) * whole,
            server: (after.1 - before.1) * whole,
        })
    }

    fn cpu(&self) -> (f64, f64) {
        let of = |pid| cpu_s(pid).unwrap_or(0.0);
        (of(std::process::id()), of(self.options.clickhouse_pid))
    }

    /// What the tables hold of the first records, and that the minute tables count the same.
    fn told(&self, database: &str, records: u64) -> Result<String, String> {
        let sql = format!(
            "SELECT tuple(count(), uniqExact(_partition, _offset), sum(cityHash64(*)), (SELECT count() FROM minutes_drift)) \
             FROM events WHERE _offset < {records}"
        );
        let reader = Reader::new(&self.config(database, Way::Rows)).map_err(text)?;
        let table = self.runtime.block_on(reader.query_json(&sql)).map_err(text)?;
        Ok(format!("{:?}", table.rows))
    }

    fn drop(&self, database: &str) -> Result<(), String> {
        let statement = format!("DROP DATABASE {database} SYNC");
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail-with-body", "-u", &self.options.clickhouse_user]);
        let out = curl
            .args([&self.options.clickhouse, "--data-binary", &statement])
            .output();
        let out = out.map_err(text)?;
        if out.status.success() {
            Ok(())
        } else {
            Err(format!("{statement}: {}", String::from_utf8_lossy(&out.stdout)))
        }
    }

    /// Both ways, by turns; the first of them by turns too.
    fn compare(&self, batch: usize) -> Result<[Took; 2], String> {
        let records = self.options.records.min((batch * BATCHES) as u64);
        let mut all: [Vec<Took>; 2] = Default::default();
        for round in 0..self.options.rounds {
            let mut ways = [Way::Rows, Way::Columns];
            ways.rotate_left(round % 2);
            let mut told = Vec::new();
            for way in ways {
                let database = format!("bench_{}_{batch}_{round}", way.name());
                all[way as usize].push(self.keep(&database, way, (batch, records))?);
                told.push(self.told(&database, records)?);
                self.drop(&database)?;
            }
            if told[0] != told[1] || !told[0].contains(&format!("Number({records}), Number({records})")) {
                return Err(format!("batches of {batch}: {told:?} of {records} records"));
            }
        }
        let [rows, columns] = all.map(median);
        #[allow(clippy::cast_precision_loss, reason = "records a second")]
        let per_s = |took: Took| records as f64 / took.wall;
        #[allow(clippy::cast_precision_loss, reason = "microseconds a record")]
        let us = |seconds: f64| seconds * 1e6 / records as f64;
        crate::say(&format!(
            "batch={batch} records={records} rowbinary_rows_per_s={:.0} bulk_rows_per_s={:.0} rowbinary_us={:.2} bulk_us={:.2} \
             rowbinary_server_us={:.2} bulk_server_us={:.2}",
            per_s(rows),
            per_s(columns),
            us(rows.ours),
            us(columns.ours),
            us(rows.server),
            us(columns.server)
        ));
        Ok([rows, columns].map(|took| Took {
            wall: took.wall / records as f64,
            ..took
        }))
    }
}

/// The middle one of each.
fn median(all: Vec<Took>) -> Took {
    let of = |get: fn(&Took) -> f64| {
        let mut each: Vec<f64> = all.iter().map(get).collect();
        each.sort_by(f64::total_cmp);
        each.get(each.len() / 2).copied().unwrap_or_default()
    };
    Took {
        wall: of(|t| t.wall),
        ours: of(|t| t.ours),
        server: of(|t| t.server),
    }
}

/// Runs the benchmark; the line to print last.
pub(crate) fn run(options: &Options) -> Result<String, String> {
    let bench = Bench {
        options,
        runtime: tokio()?,
    };
    analytics::fill(&Fill {
        brokers: options.brokers.clone(),
        registry: options.registry.clone(),
        topic: EVENTS.name.to_owned(),
        records: options.records,
        partitions: 1,
        // Recent, so that the table's TTL has nothing to do.
        begin_us: now().0 - 3_600_000_000,
        runs: None,
        rate: None,
    })?;
    let mut last = None;
    for batch in &options.batches {
        last = Some(bench.compare(*batch)?);
    }
    let [rows, columns] = last.ok_or("no batches")?;
    let cpu = |took: Took| took.ours + took.server;
    Ok(format!(
        "bulk_rows_per_s={:.0} rowbinary_rows_per_s={:.0} ratio={:.2} ratio_cpu={:.2} ratio_server_cpu={:.2} ratio_client_cpu={:.2}",
        1.0 / columns.wall,
        1.0 / rows.wall,
        rows.wall / columns.wall,
        cpu(rows) / cpu(columns),
        rows.server / columns.server,
        rows.ours / columns.ours,
    ))
}
