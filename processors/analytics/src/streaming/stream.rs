//! One instance's part of a streaming query: the local half of its source partitions, the final half of the same partitions of
//! the repartition topic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kernel::{Dataflow, EventTime, Fault, FaultCode, Flow, Slab};

use super::due::Room;
use super::finals::Finish;
use super::joined::Join;
use super::local::{Local, Outcomes, Reads, Setup, refused};
use super::lookups::Lookups;
use super::part::Part;
use super::plan::View;
use super::program::{LATE, PARTIALS, subject};
use super::reader::Reader;
use super::source::Source;
use super::{Follow, Program, Schemas, Settings, send};

/// Microseconds from one look at the clock to the next, at most, of a stage that does not stand still: it looks every half second, and when a
/// transaction has been answered.
const LOOKS: i64 = 2_000_000;

/// A source as this instance reads it.
pub(crate) struct Reading {
    pub(crate) setup: Setup,
    pub(crate) reader: Reader,
}

fn micros(ms: i64) -> i64 {
    ms.saturating_mul(1_000)
}

pub(crate) fn late_after(source: &Source, settings: &Settings) -> i64 {
    source.lateness.unwrap_or(micros(settings.allowed_lateness_ms))
}

pub(crate) fn reading(
    source: &Source,
    views: &[Arc<View>],
    settings: &Settings,
    late: &Arc<str>,
    schemas: &Arc<dyn Schemas>,
) -> Result<Reading, Fault> {
    let lateness = late_after(source, settings);
    let read = views.iter().filter(|v| v.source == source.name).cloned();
    let reads: Vec<_> = read.map(|view| Reads { view, lateness }).collect();
    if reads.len() > 64 {
        let detail = format!(
            "{} views read `{}`; at most 64 can in one file",
            reads.len(),
            source.name
        );
        return Err(Fault::new(FaultCode::ConfigInvalid, detail));
    }
    let (topic, columns) = (Arc::clone(&source.topic), Arc::clone(&source.columns));
    Ok(Reading {
        setup: Setup {
            topic: Arc::clone(&topic),
            late_topic: Arc::clone(late),
            time: source.time.clone(),
            unique: source.unique,
            delay: source.delay,
            idle: source.idle.unwrap_or(micros(settings.idle_ms)),
            future: micros(settings.future_max_ms),
            reads,
            only: None,
        },
        reader: Reader::new(topic, source.wanted.clone(), columns, Arc::clone(schemas)),
    })
}

/// The part of a query that one instance runs.
pub struct Streaming {
    settings: Settings,
    partials: Arc<str>,
    late: Arc<str>,
    sources: Vec<Reading>,
    finishes: Vec<Finish>,
    owned: BTreeSet<i32>,
    locals: BTreeMap<(usize, i32), Local>,
    parts: BTreeMap<i32, Part>,
    outcomes: Outcomes,
    lookups: Lookups,
    /// When it was looked last which partitions are idle.
    looked: Option<i64>,
    /// Views of partitions that have more to tell than the last transaction had room for.
    behind: usize,
    /// Partitions were begun since, which may have been left behind.
    begun: bool,
}

impl Streaming {
    pub(crate) fn new(
        program: &Program,
        settings: Settings,
        schemas: &Arc<dyn Schemas>,
        ids: &BTreeMap<String, i32>,
    ) -> Result<Self, Fault> {
        let late: Arc<str> = settings.topic(LATE).into();
        let views: Vec<_> = program.halves().cloned().map(Arc::new).collect();
        let (mut sources, mut of) = (Vec::new(), BTreeMap::new());
        for source in &program.sources {
            let reading = reading(source, &views, &settings, &late, schemas)?;
            of.insert(
                source.name.clone(),
                (late_after(source, &settings), Arc::clone(&source.topic)),
            );
            sources.push(reading);
        }
        let topic_of = |view: &View| {
            of.get(&view.source)
                .map_or_else(|| "".into(), |(_, topic)| Arc::clone(topic))
        };
        let both = |join: &Join| join.sides.each_ref().map(topic_of);
        let sides = program
            .joins
            .iter()
            .flat_map(|join| (0..2).map(move |which| (&join.rows, Some((which, Arc::clone(&join.how), both(join))))));
        let forms = program.rows.iter().map(|rows| (rows, None)).chain(sides);
        let mut finishes = Vec::new();
        for (view, (rows, join)) in views.iter().zip(forms) {
            let id = ids.get(&subject(&view.topic)).ok_or_else(|| {
                let detail = format!("the schema of `{}` was not registered", subject(&view.topic));
                Fault::new(FaultCode::ConfigInvalid, detail)
            })?;
            finishes.push(Finish {
                lateness: of.get(&view.source).map_or(0, |(lateness, _)| *lateness),
                source: topic_of(view),
                topic: view.topic.as_str().into(),
                id: *id,
                rows: rows.clone(),
                view: Arc::clone(view),
                join,
            });
        }
        let lookups = Lookups::new(&program.lookups, &settings, schemas)?;
        Ok(Self {
            partials: settings.topic(PARTIALS).into(),
            late,
            settings,
            sources,
            finishes,
            owned: BTreeSet::new(),
            locals: BTreeMap::new(),
            parts: BTreeMap::new(),
            outcomes: Outcomes::default(),
            lookups,
            looked: None,
            behind: 0,
            begun: false,
        })
    }

    /// The same, with somebody who reads the topics of its lookups.
    #[must_use]
    pub fn following(mut self, follow: Box<dyn Follow>) -> Self {
        self.lookups.follow = Some(follow);
        self
    }

    /// What became of the records so far.
    pub fn outcomes(&self) -> Outcomes {
        self.outcomes
    }

    /// Bytes that open windows and unique values take.
    pub fn open_window_bytes(&self) -> usize {
        let locals = self.locals.values().map(Local::size).sum::<usize>();
        locals + self.parts.values().map(Part::size).sum::<usize>()
    }

    fn take(&mut self, source: usize, slab: &Slab, now: i64) -> Result<(), Fault> {
        let Reading { setup, reader } = &mut self.sources[source];
        let tables = &self.lookups.tables;
        let local = self.locals.entry((source, slab.partition)).or_default();
        let mut bad = Vec::new();
        reader.read(
            slab,
            &mut |taken| local.take(setup, &taken, slab, now, tables),
            &mut |index, fault| {
                bad.push(refused(slab, index, fault));
            },
        )?;
        local.out.outcomes.refused += bad.len() as u64;
        local.out.refused.extend(bad);
        Ok(())
    }

    fn part(&mut self, partition: i32) -> &mut Part {
        let views = self.finishes.len();
        self.parts.entry(partition).or_insert_with(|| Part::new(views))
    }

    /// What the local halves send, and their changes.
    fn flush_locals(&mut self, now: i64, flow: &mut Flow) -> Result<(), Fault> {
        let missed = self.looked.replace(now).map_or(0, |before| now - before - LOOKS);
        let mut all: Vec<_> = self.locals.iter_mut().collect();
        // Who wakes, or may, goes first: the final half takes frame by frame, and another's, coming before, would move the watermark over its rows.
        all.sort_by_key(|(_, local)| (local.idle || local.sent.is_some_and(|sent| !sent.idle), local.newest));
        for ((source, partition), local) in all {
            if !self.owned.contains(partition) {
                continue;
            }
            let setup = &self.sources[*source].setup;
            local.not_looked(missed);
            local.look_at_the_clock(setup, now);
            let marked = local.mark(setup);
            let sections = send::sections(local, setup, self.settings.partitions)?;
            let moved = local.sent != Some(marked);
            let from = (&*setup.topic, *partition);
            flow.emits
                .extend(send::frames(&self.partials, from, marked, moved, sections)?);
            local.sent = Some(marked);
            flow.changes.extend(local.changes(setup, *partition));
            flow.emits.append(&mut local.out.emits);
            flow.refused.append(&mut local.out.refused);
            self.outcomes.add(std::mem::take(&mut local.out.outcomes));
        }
        Ok(())
    }
}

impl Dataflow for Streaming {
    fn name(&self) -> &str {
        &self.settings.stage
    }

    fn on_batch(&mut self, slabs: &[Slab], now: EventTime) -> Result<(), Fault> {
        self.lookups.keep_up()?;
        for slab in slabs.iter().filter(|slab| !slab.is_empty()) {
            if slab.topic == self.partials {
                self.part(slab.partition);
                if let Some(part) = self.parts.get_mut(&slab.partition) {
                    part.take(&self.finishes, slab, &self.late, self.settings.partitions)?;
                }
            } else if let Some(source) = self.sources.iter().position(|s| s.setup.topic == slab.topic) {
                self.take(source, slab, now.0)?;
            } else {
                let detail = format!("a slab of `{}` came, which no view reads", slab.topic);
                return Err(Fault::new(FaultCode::Internal, detail));
            }
        }
        Ok(())
    }

    fn unread(&mut self, partitions: &[(Arc<str>, i32)], now: EventTime) {
        for (topic, partition) in partitions {
            let source = self.sources.iter().position(|s| s.setup.topic == *topic);
            if let Some(local) = source.and_then(|s| self.locals.get_mut(&(s, *partition))) {
                local.quiet_since = Some(now.0);
            }
        }
    }

    fn gauges(&self) -> Vec<(&'static str, usize)> {
        let of = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let mut all = vec![
            ("state_bytes", self.open_window_bytes()),
            ("late", of(self.outcomes.late)),
            ("duplicate", of(self.outcomes.duplicate)),
            ("woke", of(self.outcomes.woke)),
            ("behind", self.behind),
        ];
        self.lookups.gauges(&mut all);
        all
    }

    fn flush(&mut self, now: EventTime) -> Result<Flow, Fault> {
        let mut flow = Flow::default();
        self.lookups.keep_up()?;
        self.lookups.flush(&self.owned, &mut flow);
        self.flush_locals(now.0, &mut flow)?;
        (self.behind, self.begun) = (0, false);
        let mut room = Room::new(self.settings.told_rows_max);
        for (partition, part) in &mut self.parts {
            if self.owned.contains(partition) {
                part.flush(&self.finishes, *partition, &mut flow, &mut room)?;
                self.behind += part.behind();
                self.outcomes.woke += std::mem::take(&mut part.woke);
            }
        }
        let bytes = self.open_window_bytes();
        if bytes > self.settings.state_bytes_max {
            let detail = format!(
                "open windows take {bytes} bytes, more than state_bytes_max ({}): raise it, shorten the windows or the allowed lateness, or start more instances",
                self.settings.state_bytes_max
            );
            return Err(Fault::new(FaultCode::ConfigInvalid, detail));
        }
        Ok(flow)
    }

    fn has_more(&self) -> bool {
        // Without partitions nobody flushes, and nobody would ever answer no.
        !self.owned.is_empty() && (self.begun || self.behind > 0)
    }

    fn restore(&mut self, partition: i32, key: &str, value: Option<&[u8]>) -> Result<(), Fault> {
        let (kind, rest) = key.split_once('|').unwrap_or((key, ""));
        match kind {
            "k" => {
                let (topic, rest) = rest.split_once('|').unwrap_or((rest, ""));
                self.lookups.restore(topic, rest, value)
            }
            "l" | "s" => {
                let (topic, rest) = rest.split_once('|').unwrap_or((rest, ""));
                let Some(source) = self.sources.iter().position(|s| *s.setup.topic == *topic) else {
                    // A source that the file read once.
                    return Ok(());
                };
                let local = self.locals.entry((source, partition)).or_default();
                local.restore(kind, rest, value)
            }
            _ => {
                self.part(partition);
                match self.parts.get_mut(&partition) {
                    Some(part) => part.restore(&self.finishes, key, value),
                    None => Ok(()),
                }
            }
        }
    }

    fn begin(&mut self, partition: i32) {
        self.owned.insert(partition);
        self.begun = true;
        self.lookups.begin();
        for source in 0..self.sources.len() {
            self.locals.entry((source, partition)).or_default();
        }
        self.part(partition);
    }

    fn release(&mut self, partition: i32) {
        self.owned.remove(&partition);
        self.parts.remove(&partition);
        self.lookups.release(partition);
        self.locals.retain(|(_, p), _| *p != partition);
    }
}
