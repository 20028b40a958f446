//! Events per minute by tenant and type, over event time. SQL counts each micro-batch; this adds the counts up per partition,
//! moves the watermark, closes windows and corrects them. It drops nothing silently: what fits no window is counted apart.
//! It does not look for repeated events: the log is exactly once.

use std::collections::{BTreeMap, BTreeSet};

use kernel::{ConfigFault, Delivery, EventTime, Fault, FaultCode, Window};
use schemas::Timestamp;
use schemas::records::{Event, Metric};

use crate::config::Config;
use crate::partition::{Cell, MINUTE, Partition, Series, Tally};
use crate::query::{Query, Row};

const PER_MINUTE: &str = "soma_events_per_minute";
const TOO_LATE: &str = "soma_events_too_late_total";
const CLOCK_WRONG: &str = "soma_events_clock_wrong_total";
/// Label value that means all of them.
const ALL: &str = "*";

kernel::inputs! {
    /// What the analytics stage reads.
    pub enum Input { Event(Event) = schemas::topics::EVENTS }
}

impl Input {
    /// The event.
    pub fn event(&self) -> &Event {
        let Input::Event(event) = self;
        event
    }
}

/// Windows and series that may have to be told.
type Due = BTreeMap<i64, BTreeSet<Series>>;

/// The window stage over `soma.events`. Holds every partition of the instance; a window's number is the sum over them, so one
/// instance must own all partitions for the number to be the tenant's.
pub struct EventsPerMinute {
    config: Config,
    query: Query,
    partitions: BTreeMap<i32, Partition>,
    /// Event time that is believed complete, microseconds. Never goes back while any partition is held.
    watermark: i64,
    /// Windows that end here or before were looked at when they closed.
    settled: i64,
}

impl EventsPerMinute {
    /// A stage with its query, which is parsed, checked and planned here.
    ///
    /// # Errors
    /// Every problem of the settings, and what is wrong with the SQL (path `sql`).
    pub fn new(config: Config, sql: &str) -> Result<Self, Vec<ConfigFault>> {
        let mut faults = config.check();
        let query = Query::new(sql).map_err(|fault| faults.push(ConfigFault::new("sql", fault.detail)));
        match query {
            Ok(query) if faults.is_empty() => Ok(Self {
                config,
                query,
                partitions: BTreeMap::new(),
                watermark: i64::MIN,
                settled: i64::MIN,
            }),
            _ => Err(faults),
        }
    }

    /// Event time that is believed complete; `None` before the first event or tick that moved it.
    pub fn watermark(&self) -> Option<Timestamp> {
        (self.watermark > i64::MIN).then_some(Timestamp(self.watermark))
    }

    /// Sorts a batch: what a window takes, and how much of each partition is too late or has a wrong clock.
    fn admit<'a>(&mut self, batch: &'a [Delivery<Input>], now: i64) -> Admitted<'a> {
        let latest = now.saturating_add(self.config.future_max_ms * 1000);
        let closed_for_good = self.watermark.saturating_sub(self.config.allowed_lateness_ms * 1000);
        let mut admitted = Admitted::default();
        for delivery in batch {
            let ts = delivery.input.event().ts.0;
            let number = delivery.position.partition;
            let partition = self.partitions.entry(number).or_default();
            if ts < self.config.earliest.0 || ts > latest {
                partition.clock_wrong.count += 1;
                admitted.clock_wrong.insert(number);
            } else if start_of(ts) + MINUTE <= closed_for_good {
                partition.too_late.count += 1;
                admitted.too_late.insert(number);
            } else {
                // A clock that runs ahead must not close windows that others still fill.
                partition.newest = partition.newest.max(Some(ts.min(now)));
                partition.quiet_since = Some(now);
                admitted.events.push(delivery);
            }
        }
        admitted
    }

    /// Adds counted rows to the state, and says which series they touched.
    fn merge(&mut self, rows: Vec<Row>) -> Result<Due, Fault> {
        let mut touched = Due::new();
        for row in rows {
            let start = row.window_start.0;
            let known = self
                .partitions
                .get_mut(&row.partition)
                .filter(|_| start == start_of(start));
            let Some(partition) = known else {
                let detail = format!(
                    "the SQL gave partition {} and window_start {}: it must pass the partition on and start windows at whole minutes",
                    row.partition, row.window_start
                );
                return Err(Fault::new(FaultCode::ConfigInvalid, detail));
            };
            let counts = partition.windows.entry(start).or_default();
            counts.total.0 += row.events;
            let due = touched.entry(start).or_default();
            // An event that calls itself what the total is called is in the total only.
            if (row.tenant.as_str(), row.kind.as_str()) != (ALL, ALL) {
                let series = (row.tenant, row.kind);
                counts.series.entry(series.clone()).or_default().0 += row.events;
                due.insert(series);
            }
        }
        Ok(touched)
    }

    /// Moves the watermark: the least of the partitions that are not idle; when all are, the clock.
    fn advance(&mut self, now: i64) {
        let idle = self.config.idle_ms * 1000;
        let delay = self.config.watermark_delay_ms * 1000;
        let mut least: Option<i64> = None;
        for partition in self.partitions.values_mut() {
            let quiet_since = *partition.quiet_since.get_or_insert(now);
            if now.saturating_sub(quiet_since) < idle {
                let newest = partition.newest.unwrap_or(i64::MIN);
                least = Some(least.map_or(newest, |l| l.min(newest)));
            }
        }
        let reached = match least {
            Some(newest) => newest.saturating_sub(delay),
            None if self.partitions.is_empty() => i64::MIN,
            None => now.saturating_sub(delay + idle),
        };
        self.watermark = self.watermark.max(reached);
    }

    /// Tells what closed since last time and what was touched in closed windows, then forgets what can no longer change.
    fn settle(&mut self, touched: Due, now: EventTime) -> Vec<Metric> {
        let closed_to = self.watermark.saturating_sub(MINUTE);
        let mut due: Due = touched
            .into_iter()
            .take_while(|(start, _)| *start <= closed_to)
            .collect();
        let from = self.settled.saturating_sub(MINUTE);
        for partition in self.partitions.values().filter(|_| from < closed_to) {
            for (start, counts) in partition.windows.range((from.saturating_add(1))..=closed_to) {
                let untold = counts.series.iter().filter(|(_, cell)| cell.1.is_none());
                let untold: Vec<Series> = untold.map(|(series, _)| series.clone()).collect();
                if counts.total.1.is_none() || !untold.is_empty() {
                    due.entry(*start).or_default().extend(untold);
                }
            }
        }
        self.settled = self.watermark;
        let mut metrics = Vec::new();
        for (start, series) in due {
            self.tell_window(start, series, now, &mut metrics);
        }
        let forget = self
            .watermark
            .saturating_sub(self.config.allowed_lateness_ms * 1000)
            .saturating_sub(MINUTE);
        for partition in self.partitions.values_mut() {
            while partition
                .windows
                .first_key_value()
                .is_some_and(|(start, _)| *start <= forget)
            {
                partition.windows.pop_first();
            }
        }
        metrics
    }

    fn tell_window(&mut self, start: i64, series: BTreeSet<Series>, now: EventTime, metrics: &mut Vec<Metric>) {
        let mut counts: Vec<_> = self
            .partitions
            .values_mut()
            .filter_map(|p| p.windows.get_mut(&start))
            .collect();
        let mut tell = |cells: Vec<&mut Cell>, tenant: &str, kind: &str| {
            let (value, revision) = tell(cells);
            metrics.push(metric(PER_MINUTE, (tenant, kind), start, value, revision, now));
        };
        tell(counts.iter_mut().map(|c| &mut c.total).collect(), ALL, ALL);
        for key in series {
            let cells = counts.iter_mut().filter_map(|c| c.series.get_mut(&key)).collect();
            tell(cells, &key.0, &key.1);
        }
    }

    /// Tells a tally that these partitions changed: its value since the beginning, in the wall-clock minute of `now`.
    fn tell_tally(
        &mut self,
        name: &str,
        changed: &BTreeSet<i32>,
        of: fn(&mut Partition) -> &mut Tally,
        now: EventTime,
    ) -> Option<Metric> {
        if changed.is_empty() {
            return None;
        }
        let minute = start_of(now.0);
        let (mut value, mut last) = (0, None);
        for partition in self.partitions.values_mut() {
            let tally = of(partition);
            value += tally.count;
            last = last.max(tally.revision.filter(|_| tally.minute == minute));
        }
        let revision = next(last);
        for partition in changed {
            if let Some(tally) = self.partitions.get_mut(partition).map(of) {
                (tally.minute, tally.revision) = (minute, Some(revision));
            }
        }
        Some(metric(name, (ALL, ALL), minute, value, revision, now))
    }
}

/// A batch, sorted.
#[derive(Default)]
struct Admitted<'a> {
    events: Vec<&'a Delivery<Input>>,
    too_late: BTreeSet<i32>,
    clock_wrong: BTreeSet<i32>,
}

fn start_of(ts: i64) -> i64 {
    ts - ts.rem_euclid(MINUTE)
}

fn next(last: Option<i32>) -> i32 {
    last.map_or(0, |r| r.saturating_add(1))
}

/// The sum of one series over partitions, and its next revision, which is noted in all of them: whichever moves, it moves along.
fn tell(mut cells: Vec<&mut Cell>) -> (i64, i32) {
    let value = cells.iter().map(|c| c.0).sum();
    let revision = next(cells.iter().filter_map(|c| c.1).max());
    cells.iter_mut().for_each(|c| c.1 = Some(revision));
    (value, revision)
}

fn metric(name: &str, of: (&str, &str), start: i64, value: i64, revision: i32, now: EventTime) -> Metric {
    let labels = [("tenant", of.0), ("type", of.1)];
    Metric {
        name: name.to_owned(),
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        window_start: Timestamp(start),
        window_end: Timestamp(start + MINUTE),
        // Exact up to 2^53 events.
        value: value as f64,
        revision,
        emitted_at: now,
    }
}

impl Window for EventsPerMinute {
    type In = Input;

    fn name(&self) -> &'static str {
        "events_per_minute"
    }

    fn on_batch(&mut self, batch: &[Delivery<Input>], now: EventTime) -> Result<Vec<Metric>, Fault> {
        // Lateness is judged by the watermark before the batch: records of one batch do not make each other late.
        let admitted = self.admit(batch, now.0);
        let touched = match admitted.events.is_empty() {
            true => Due::new(),
            false => self.merge(self.query.run(&admitted.events)?)?,
        };
        self.advance(now.0);
        let mut metrics = self.settle(touched, now);
        metrics.extend(self.tell_tally(TOO_LATE, &admitted.too_late, |p| &mut p.too_late, now));
        metrics.extend(self.tell_tally(CLOCK_WRONG, &admitted.clock_wrong, |p| &mut p.clock_wrong, now));
        Ok(metrics)
    }

    fn on_tick(&mut self, now: EventTime) -> Result<Vec<Metric>, Fault> {
        self.advance(now.0);
        Ok(self.settle(Due::new(), now))
    }

    fn snapshot(&self, partition: i32) -> Result<Option<Vec<u8>>, Fault> {
        self.partitions.get(&partition).map_or(Ok(None), Partition::snapshot)
    }

    fn restore(&mut self, partition: i32, snapshot: Option<&[u8]>) -> Result<(), Fault> {
        let restored = snapshot.map(Partition::restore).transpose()?.unwrap_or_default();
        self.watermark = self.watermark.max(restored.told_until().unwrap_or(i64::MIN));
        // Its windows may have closed elsewhere without being told there: look at all closed ones again.
        self.settled = i64::MIN;
        self.partitions.insert(partition, restored);
        Ok(())
    }

    fn release(&mut self, partition: i32) {
        self.partitions.remove(&partition);
        if self.partitions.is_empty() {
            (self.watermark, self.settled) = (i64::MIN, i64::MIN);
        }
    }
}
