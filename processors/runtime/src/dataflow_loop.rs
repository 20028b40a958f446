//! The loop of a streaming query: slabs in; rows, state and dead letters out, with the offsets read, in one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::{Blame, Change, Dataflow, Fault, Flow, Headers, Polled, Position, RawEmit, Refused, Restoring, Slab};

use crate::batch::Batch;
use crate::dead;
use crate::health::StageState;
use crate::stage::{Backoff, Stage, StageContext};

/// A query is asked for what time alone brings about as often.
const TICK: Duration = Duration::from_millis(500);
/// So many bytes are committed whatever the linger says: what a crash has to read again, and what a transaction may hold.
const BYTES_MAX: usize = 64 << 20;
/// How often is asked for the answer to a transaction while no records come.
const ANSWER_MS: u64 = 10;

/// Runs a [`Dataflow`].
pub struct DataflowStage<D: Dataflow> {
    flow: D,
    owned: BTreeSet<(String, i32)>,
    /// Assigned, and not begun yet.
    fresh: Vec<(String, i32)>,
    read: Read,
    backoff: Backoff,
    /// By the clock's elapsed time.
    flushed: Duration,
    paused: bool,
    /// A transaction failed: state and offsets are to be read back.
    lost: bool,
    /// Partitions were taken over, and nothing was committed since: the first commit does not linger, since somebody waits for it.
    eager: bool,
    /// A transaction is made beside what is read meanwhile.
    under_way: Option<UnderWay>,
}

/// What is counted when a transaction is true.
struct UnderWay {
    /// Records and, of these, dead letters, by topic.
    records: BTreeMap<Arc<str>, (u64, u64)>,
    since: Instant,
}

/// What was taken in since the last commit.
#[derive(Default)]
struct Read {
    /// Next offset, by topic and partition.
    next: BTreeMap<(Arc<str>, i32), i64>,
    /// Records, by topic.
    records: BTreeMap<Arc<str>, u64>,
    bytes: usize,
    /// When the first came, by the clock's elapsed time.
    since: Option<Duration>,
}

impl Read {
    fn take(&mut self, slabs: &[Slab], now: Duration) {
        for slab in slabs {
            let Some(last) = slab.offsets.last() else { continue };
            self.next.insert((slab.topic.clone(), slab.partition), last + 1);
            *self.records.entry(slab.topic.clone()).or_default() += slab.len() as u64;
            self.bytes += slab.values.len();
            self.since.get_or_insert(now);
        }
    }
}

impl<D: Dataflow> DataflowStage<D> {
    /// A stage around a query.
    pub fn new(flow: D) -> Self {
        Self {
            flow,
            owned: BTreeSet::new(),
            fresh: Vec::new(),
            read: Read::default(),
            backoff: Backoff::default(),
            flushed: Duration::ZERO,
            paused: false,
            lost: false,
            eager: false,
            under_way: None,
        }
    }

    /// Reads the state of these partitions back, whatever was known of them before.
    fn restore(&mut self, cx: &mut StageContext, partitions: &BTreeSet<i32>) -> Result<(), Fault> {
        if partitions.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        partitions.iter().for_each(|p| self.flow.release(*p));
        let topic: Arc<str> = cx.state_topic.as_str().into();
        let detail = format!("{topic} partitions {partitions:?}");
        cx.health
            .set(&cx.stage, StageState::Restoring(detail), self.owned.len());
        let changelogs: Vec<_> = partitions.iter().map(|p| (topic.clone(), *p)).collect();
        let mut into = Into {
            flow: &mut self.flow,
            partitions: partitions.iter().copied().collect(),
            records: 0,
        };
        cx.log.restore(&changelogs, &mut into)?;
        let records = into.records;
        partitions.iter().for_each(|p| self.flow.begin(*p));
        let ms = began.elapsed().as_millis();
        tracing::info!(stage = %cx.stage, ?partitions, records, ms, "state restored");
        Ok(())
    }

    /// Begins what was assigned; tried again while the broker does not answer.
    fn begin(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        if self.fresh.is_empty() {
            return Ok(());
        }
        self.settle(cx, true)?;
        let new = |p: &i32| !self.owned.iter().any(|o| o.1 == *p);
        let partitions = self.fresh.iter().map(|f| f.1).filter(new).collect();
        self.restore(cx, &partitions)?;
        cx.log.start(&self.fresh)?;
        self.eager = true;
        self.owned.extend(std::mem::take(&mut self.fresh));
        cx.running(self.owned.len());
        Ok(())
    }

    /// After a failed transaction, as after a crash: state and offsets as the log has them.
    fn reset(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        // What came of it is read back like everything else.
        match self.settle(cx, true) {
            Err(fault) if fault.blame != Blame::Dependency => return Err(fault),
            _ => {}
        }
        self.read = Read::default();
        let partitions: BTreeSet<i32> = self.owned.iter().map(|o| o.1).collect();
        self.restore(cx, &partitions)?;
        let owned: Vec<_> = self.owned.iter().cloned().collect();
        if !owned.is_empty() {
            cx.log.start(&owned)?;
        }
        cx.running(self.owned.len());
        Ok(())
    }

    fn is_due(&self, cx: &StageContext) -> bool {
        let now = cx.clock.elapsed();
        let linger = Duration::from_millis(cx.limits.linger_ms);
        let gathered = self.read.since.is_some_and(|since| now >= since + linger);
        let first = self.eager && self.read.since.is_some();
        gathered || first || self.flow.has_more() || self.read.bytes >= BYTES_MAX || now >= self.flushed + TICK
    }

    /// Begins to commit what the query asks for, with everything read until now; the transaction before must be settled.
    fn flush(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        self.flushed = cx.clock.elapsed();
        if self.owned.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let now = cx.clock.now();
        self.flow.unread(&cx.log.unread(), now);
        let flow = self.flow.flush(now)?;
        if flow.is_empty() && self.read.next.is_empty() {
            return Ok(());
        }
        self.eager &= self.read.next.is_empty();
        let mut records: BTreeMap<Arc<str>, (u64, u64)> = BTreeMap::new();
        for record in &flow.refused {
            records.entry(record.topic.clone()).or_default().1 += 1;
        }
        let mut batch = self.batch(cx, flow)?;
        let commit = batch.seal();
        for (topic, n) in std::mem::take(&mut self.read).records {
            records.entry(topic).or_default().0 = n;
        }
        cx.metrics.batch(&cx.stage, started.elapsed().as_secs_f64());
        let since = Instant::now();
        cx.log.commit_later(commit)?;
        self.under_way = Some(UnderWay { records, since });
        Ok(())
    }

    /// Takes the answer to the transaction under way, if there is one by now; with `wait` there is. True when none is under way.
    fn settle(&mut self, cx: &mut StageContext, wait: bool) -> Result<bool, Fault> {
        if self.under_way.is_none() {
            return Ok(true);
        }
        match cx.log.answer(wait) {
            Ok(false) => return Ok(false),
            Ok(true) => {}
            Err(fault) => {
                self.under_way = None;
                return Err(fault);
            }
        }
        let Some(done) = self.under_way.take() else {
            return Ok(true);
        };
        cx.committed(done.since);
        for (what, n) in self.flow.gauges() {
            cx.metrics.gauge(&cx.stage, what, n);
        }
        for (topic, (n, dead)) in done.records {
            cx.metrics.records(&cx.stage, &topic, "ok", n.saturating_sub(dead));
            if dead > 0 {
                cx.metrics.records(&cx.stage, &topic, "dead_lettered", dead);
            }
        }
        Ok(true)
    }

    /// Commits everything read until now, and waits until it is true.
    fn drain(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        self.settle(cx, true)?;
        self.flush(cx)?;
        self.settle(cx, true).map(drop)
    }

    fn batch(&self, cx: &mut StageContext, flow: Flow) -> Result<Batch, Fault> {
        let mut batch = Batch::default();
        batch.raws(flow.emits);
        let topic: Arc<str> = cx.state_topic.as_str().into();
        batch.raws(flow.changes.into_iter().map(|c| change(&topic, c)).collect());
        for letter in letters(cx, &flow.refused)? {
            batch.dead(letter);
        }
        for (place, next) in &self.read.next {
            batch.offset(place.clone(), *next);
        }
        Ok(batch)
    }

    fn turn(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        // Beside a transaction only so much is read ahead.
        let full = self.read.bytes >= BYTES_MAX;
        if self.settle(cx, full)? && self.is_due(cx) {
            self.flush(cx)?;
        }
        Ok(())
    }

    /// How long the poll may wait before something else is due.
    fn wait_ms(&self, cx: &StageContext) -> u64 {
        if self.lost {
            return cx.pass_time(&self.backoff).max(1);
        }
        if self.under_way.is_some() {
            return ANSWER_MS;
        }
        if self.flow.has_more() {
            return 0;
        }
        let linger = Duration::from_millis(cx.limits.linger_ms);
        let due = self.read.since.map(|since| since + linger);
        let left = due.map_or(TICK, |due| due.saturating_sub(cx.clock.elapsed()));
        // Whole milliseconds: the client spins through a rest that is shorter.
        u64::try_from(left.as_millis()).unwrap_or(100).min(100)
    }

    fn poll(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        match cx.log.poll_slabs(cx.limits.batch_max, self.wait_ms(cx))? {
            // Read before it was known that state and offsets have to be read back.
            Polled::Records(_) if self.lost => {}
            Polled::Records(slabs) => {
                self.read.take(&slabs, cx.clock.elapsed());
                self.flow.on_batch(&slabs, cx.clock.now())?;
            }
            // More instances than partitions: this one stands by.
            Polled::Assigned(parts) if parts.is_empty() => {
                cx.log.start(&parts)?;
                cx.running(self.owned.len());
            }
            Polled::Assigned(parts) => self.fresh.extend(parts),
            Polled::Revoked(parts) => {
                // What was read is committed while it is still ours; where that fails, the next owner reads it.
                // A transaction under way is settled first, whatever became of it: made after the group has gone on, it would carry the new
                // generation, and the coordinator asks for no more than that.
                let drained = if self.lost {
                    self.settle(cx, true).map(drop)
                } else {
                    self.drain(cx)
                };
                self.release(cx, &parts)?;
                drained?;
            }
            Polled::Lost(parts) => {
                tracing::warn!(stage = %cx.stage, partitions = ?parts, "partitions lost: this instance was silent for too long");
                let settled = self.settle(cx, true);
                self.release(cx, &parts)?;
                settled?;
            }
            Polled::Idle => {}
        }
        Ok(())
    }

    fn release(&mut self, cx: &mut StageContext, parts: &[(String, i32)]) -> Result<(), Fault> {
        self.fresh.retain(|f| !parts.contains(f));
        let going: BTreeSet<i32> = parts.iter().map(|p| p.1).collect();
        self.read.next.retain(|(_, p), _| !going.contains(p));
        going.iter().for_each(|p| self.flow.release(*p));
        self.owned.retain(|o| !parts.contains(o));
        cx.log.release(parts)?;
        cx.running(self.owned.len());
        Ok(())
    }

    fn pause(&mut self, cx: &mut StageContext, paused: bool) -> Result<(), Fault> {
        if paused != self.paused {
            cx.log.pause(paused)?;
            self.paused = paused;
        }
        Ok(())
    }

    /// Whatever is due, in order: reading back, taking over, committing.
    fn go_on(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        if self.lost {
            if !self.backoff.over(cx.clock.as_ref()) {
                return Ok(());
            }
            self.reset(cx)?;
            self.lost = false;
        }
        self.begin(cx)?;
        self.turn(cx)
    }
}

/// A change of state as a record of the changelog.
fn change(topic: &Arc<str>, change: Change) -> RawEmit {
    RawEmit {
        topic: topic.clone(),
        partition: Some(change.partition),
        key: change.key,
        value: change.value.map(std::convert::Into::into),
        headers: Headers::default(),
    }
}

/// Dead letters of what the query refused. A slab has neither keys nor headers: the few records are read again.
fn letters(cx: &mut StageContext, refused: &[Refused]) -> Result<Vec<RawEmit>, Fault> {
    if refused.is_empty() {
        return Ok(Vec::new());
    }
    let position = |r: &Refused| Position {
        topic: r.topic.clone(),
        partition: r.partition,
        offset: r.offset,
    };
    let positions: Vec<_> = refused.iter().map(position).collect();
    let records = cx.log.fetch(&positions)?;
    let now = cx.clock.now();
    let letter = |(record, refused): (_, &Refused)| {
        cx.metrics.fault(&cx.stage, refused.fault.code.as_str());
        dead::letter(record, &cx.stage, &refused.fault, 1, now)
    };
    Ok(records.iter().zip(refused).map(letter).collect())
}

impl<D: Dataflow> Stage for DataflowStage<D> {
    fn go_round(&mut self, cx: &mut StageContext) -> Result<bool, Fault> {
        cx.health.beat(&cx.stage);
        if cx.stopping() {
            // What cannot be committed any more is read again at the next start.
            return match if self.lost { Ok(()) } else { self.drain(cx) } {
                Err(fault) if fault.blame != Blame::Dependency => Err(fault),
                _ => Ok(false),
            };
        }
        match self.poll(cx).and_then(|()| self.go_on(cx)) {
            Ok(()) => {
                if !self.lost && self.backoff.attempts > 0 && self.backoff.over(cx.clock.as_ref()) {
                    self.backoff = Backoff::default();
                    cx.running(self.owned.len());
                    self.pause(cx, false)?;
                }
            }
            Err(fault) if fault.blame == Blame::Dependency => {
                // The query may have taken in what was not committed: go back to what the log says.
                self.lost = true;
                cx.waiting(&fault, &mut self.backoff, self.owned.len());
                self.pause(cx, true)?;
            }
            Err(fault) => return Err(fault),
        }
        Ok(true)
    }
}

/// Hands a changelog to the query.
struct Into<'a, D: Dataflow> {
    flow: &'a mut D,
    partitions: Vec<i32>,
    records: u64,
}

impl<D: Dataflow> Restoring for Into<'_, D> {
    fn from(&mut self, _: usize, _: i64, _: i64) -> Result<i64, Fault> {
        Ok(0)
    }

    fn take(&mut self, index: usize, key: String, value: Option<&[u8]>, _: i64) -> Result<(), Fault> {
        self.records += 1;
        match self.partitions.get(index) {
            Some(partition) => self.flow.restore(*partition, &key, value),
            None => Ok(()),
        }
    }

    fn done(&mut self, _: usize, _: i64) -> Result<(), Fault> {
        Ok(())
    }
}
