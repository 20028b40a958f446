//! The loop of an event-time window: batches in, metrics out, one snapshot per partition in the changelog.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::{Blame, Delivery, Emit, Fault, Headers, Input, Polled, RawEmit, RawRecord, Restoring, Window};
use schemas::records::Metric;
use schemas::topics;

use crate::batch::Batch;
use crate::dead;
use crate::health::StageState;
use crate::stage::{Backoff, Stage, StageContext};

const TICK: Duration = Duration::from_millis(500);
const KEY: &str = "window";

/// Runs a [`Window`].
pub struct WindowStage<W: Window> {
    window: W,
    owned: BTreeSet<(String, i32)>,
    /// Assigned, and not begun yet.
    fresh: Vec<(String, i32)>,
    backlog: Vec<RawRecord>,
    backoff: Backoff,
    /// By the clock's elapsed time.
    ticked: Duration,
    paused: bool,
    /// A transaction failed: state and offsets are to be read back.
    lost: bool,
}

impl<W: Window> WindowStage<W> {
    /// A stage around a window.
    pub fn new(window: W) -> Self {
        Self {
            window,
            owned: BTreeSet::new(),
            fresh: Vec::new(),
            backlog: Vec::new(),
            backoff: Backoff::default(),
            ticked: Duration::ZERO,
            paused: false,
            lost: false,
        }
    }

    fn restore(&mut self, cx: &mut StageContext, partitions: &BTreeSet<i32>) -> Result<(), Fault> {
        let topic: Arc<str> = cx.state_topic.as_str().into();
        let changelogs: Vec<_> = partitions.iter().map(|p| (topic.clone(), *p)).collect();
        if changelogs.is_empty() {
            return Ok(());
        }
        let detail = format!("{topic} partitions {partitions:?}");
        cx.health
            .set(&cx.stage, StageState::Restoring(detail), self.owned.len());
        let mut last = Last(vec![None; changelogs.len()]);
        cx.log.restore(&changelogs, &mut last)?;
        for (p, snapshot) in partitions.iter().zip(last.0) {
            self.window.restore(*p, snapshot.as_deref())?;
        }
        Ok(())
    }

    /// Begins what was assigned; tried again while the broker does not answer.
    fn begin(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        if self.fresh.is_empty() {
            return Ok(());
        }
        let new = |p: &i32| !self.owned.iter().any(|o| o.1 == *p);
        let partitions = self.fresh.iter().map(|f| f.1).filter(new).collect();
        self.restore(cx, &partitions)?;
        cx.log.start(&self.fresh)?;
        self.owned.extend(std::mem::take(&mut self.fresh));
        cx.running(self.owned.len());
        Ok(())
    }

    /// After a failed transaction, as after a crash: state and offsets as the log has them.
    fn reset(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        self.backlog.clear();
        let partitions: BTreeSet<i32> = self.owned.iter().map(|o| o.1).collect();
        for p in &partitions {
            self.window.release(*p);
        }
        self.restore(cx, &partitions)?;
        let owned: Vec<_> = self.owned.iter().cloned().collect();
        if !owned.is_empty() {
            cx.log.start(&owned)?;
        }
        cx.running(self.owned.len());
        Ok(())
    }

    fn decode(&self, cx: &StageContext, batch: &mut Batch) -> Result<Vec<Delivery<W::In>>, Fault> {
        let mut deliveries = Vec::with_capacity(self.backlog.len());
        for record in &self.backlog {
            let Some(value) = &record.value else { continue };
            match W::In::decode(&record.position.topic, value, cx.decoder.as_ref()) {
                Ok(input) => {
                    batch.consumed(record, "ok");
                    deliveries.push(Delivery {
                        input,
                        key: record.key.clone(),
                        position: record.position.clone(),
                        headers: Headers::default(),
                        at: record.at,
                    });
                }
                Err(fault) if fault.blame == Blame::Input => {
                    cx.metrics.fault(&cx.stage, fault.code.as_str());
                    batch.dead(dead::letter(record, &cx.stage, &fault, 1, cx.clock.now()));
                    batch.consumed(record, "dead_lettered");
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(deliveries)
    }

    fn turn(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        let tick = cx.clock.elapsed() >= self.ticked + TICK;
        if !self.backoff.over(cx.clock.as_ref()) || (self.backlog.is_empty() && !tick) {
            return Ok(());
        }
        let started = Instant::now();
        let now = cx.clock.now();
        let mut batch = Batch::default();
        let deliveries = self.decode(cx, &mut batch)?;
        let mut metrics = if deliveries.is_empty() {
            Vec::new()
        } else {
            self.window.on_batch(&deliveries, now)?
        };
        if tick {
            self.ticked = cx.clock.elapsed();
            metrics.extend(self.window.on_tick(now)?);
        }
        if self.backlog.is_empty() && metrics.is_empty() {
            return Ok(());
        }
        for metric in &metrics {
            batch.emit(Emit::of(topics::METRICS, key_of(metric), "", metric)?);
        }
        let touched: BTreeSet<i32> = match metrics.is_empty() {
            true => deliveries.iter().map(|d| d.position.partition).collect(),
            false => self.owned.iter().map(|o| o.1).collect(),
        };
        for p in touched {
            batch.raw(RawEmit {
                topic: cx.state_topic.as_str().into(),
                partition: Some(p),
                key: KEY.to_owned(),
                value: self.window.snapshot(p)?.map(Into::into),
                headers: Headers::default(),
            });
        }
        let counts = std::mem::take(&mut batch.counts);
        let commit = batch.seal();
        cx.metrics.batch(&cx.stage, started.elapsed().as_secs_f64());
        cx.commit(&commit)?;
        for ((topic, outcome), n) in counts {
            cx.metrics.records(&cx.stage, &topic, outcome, n);
        }
        self.backlog.clear();
        Ok(())
    }

    fn poll(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        let wait = if self.backlog.is_empty() {
            100
        } else {
            cx.pass_time(&self.backoff).max(1)
        };
        match cx.log.poll(cx.limits.batch_max, wait)? {
            Polled::Records(records) => self.backlog.extend(records),
            // More instances than partitions: this one stands by.
            Polled::Assigned(parts) if parts.is_empty() => {
                cx.log.start(&parts)?;
                cx.running(self.owned.len());
            }
            Polled::Assigned(parts) => self.fresh.extend(parts),
            Polled::Revoked(parts) | Polled::Lost(parts) => {
                self.fresh.retain(|f| !parts.contains(f));
                let going: BTreeSet<i32> = parts.iter().map(|p| p.1).collect();
                self.backlog.retain(|r| !going.contains(&r.position.partition));
                going.iter().for_each(|p| self.window.release(*p));
                self.owned.retain(|o| !parts.contains(o));
                cx.log.release(&parts)?;
                cx.running(self.owned.len());
            }
            Polled::Idle => {}
        }
        Ok(())
    }

    fn pause(&mut self, cx: &mut StageContext, paused: bool) -> Result<(), Fault> {
        if paused != self.paused {
            cx.log.pause(paused)?;
            self.paused = paused;
        }
        Ok(())
    }
}

fn key_of(metric: &Metric) -> String {
    let labels: Vec<_> = metric.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    format!("{}{{{}}}", metric.name, labels.join(","))
}

impl<W: Window> Stage for WindowStage<W> {
    fn go_round(&mut self, cx: &mut StageContext) -> Result<bool, Fault> {
        cx.health.beat(&cx.stage);
        if cx.stopping() {
            return Ok(false);
        }
        let polled = self.poll(cx);
        let turned = match (&polled, self.lost && self.backoff.over(cx.clock.as_ref())) {
            (Err(_), _) => Ok(()),
            (Ok(()), true) => self.reset(cx).map(|()| self.lost = false),
            (Ok(()), false) if self.lost => Ok(()),
            (Ok(()), false) => self.begin(cx).and_then(|()| self.turn(cx)),
        };
        match polled.and(turned) {
            Ok(()) => {
                if !self.lost && self.backoff.attempts > 0 && self.backoff.over(cx.clock.as_ref()) {
                    self.backoff = Backoff::default();
                    cx.running(self.owned.len());
                    self.pause(cx, false)?;
                }
            }
            Err(fault) if fault.blame == Blame::Dependency => {
                // The window may have taken the batch in: go back to what the log says.
                self.lost = true;
                cx.waiting(&fault, &mut self.backoff, self.owned.len());
                self.pause(cx, true)?;
            }
            Err(fault) => return Err(fault),
        }
        Ok(true)
    }
}

/// Keeps the last snapshot of each changelog.
struct Last(Vec<Option<Vec<u8>>>);

impl Restoring for Last {
    fn from(&mut self, _: usize, _: i64, _: i64) -> Result<i64, Fault> {
        Ok(0)
    }

    fn take(&mut self, index: usize, key: String, value: Option<&[u8]>, _: i64) -> Result<(), Fault> {
        if let Some(last) = self.0.get_mut(index).filter(|_| key == KEY) {
            *last = value.map(<[u8]>::to_vec);
        }
        Ok(())
    }

    fn done(&mut self, _: usize, _: i64) -> Result<(), Fault> {
        Ok(())
    }
}
