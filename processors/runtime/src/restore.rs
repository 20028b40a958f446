//! Reads the state of partitions back from their changelogs: all members' at once, since finding out where a changelog ends is
//! most of what a short one costs; and in pieces, so that partitions that are at work go on meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::{Changelog, Clock, Fault, Restoring};

use crate::health::{Health, StageState};
use crate::part::Member;
use crate::stage::StageContext;

/// A restore says how far it is once in so many records.
const PROGRESS_ROWS: u64 = 50_000;

/// A changelog being read, or to be.
struct Place {
    member: usize,
    partition: i32,
    from: i64,
    end: i64,
    read: u64,
}

struct Progress<'a> {
    members: &'a mut [Box<dyn Member>],
    places: &'a mut [Place],
    stage: Arc<str>,
    health: Health,
    clock: Arc<dyn Clock>,
    owned: usize,
    began: Instant,
}

impl Progress<'_> {
    fn say(&self, place: &Place, at: i64) {
        let name = self.members.get(place.member).map_or("", |m| m.name());
        let what = format!("{name} partition {}: at {at} of {}", place.partition, place.end);
        self.health.set(&self.stage, StageState::Restoring(what), self.owned);
    }

    fn at(&mut self, index: usize) -> Result<(&mut Place, &mut (dyn Member + 'static)), Fault> {
        let place = self.places.get_mut(index);
        let member = place.and_then(|p| self.members.get_mut(p.member).map(|m| (p, m.as_mut())));
        member.ok_or_else(|| Fault::new(kernel::FaultCode::Internal, "a changelog nobody asked for"))
    }
}

impl Restoring for Progress<'_> {
    fn from(&mut self, index: usize, first: i64, end: i64) -> Result<i64, Fault> {
        let (place, member) = self.at(index)?;
        let (partition, from) = (place.partition, place.from);
        place.end = end;
        if from > 0 && !(first..=end).contains(&from) {
            tracing::warn!(
                stage = member.name(),
                partition,
                from,
                first,
                end,
                "the changelog is not the one the state on disk was read from; reading it all"
            );
            member.clear(partition)?;
            place.from = 0;
        }
        let from = place.from;
        if let Some(place) = self.places.get(index) {
            self.say(place, from);
        }
        Ok(from)
    }

    fn take(&mut self, index: usize, key: String, value: Option<&[u8]>, offset: i64) -> Result<(), Fault> {
        let (place, member) = self.at(index)?;
        place.read += 1;
        member.take_in(place.partition, key, value)?;
        match self.places.get(index) {
            Some(place) if place.read % PROGRESS_ROWS == 0 => self.say(place, offset),
            _ => {}
        }
        Ok(())
    }

    fn done(&mut self, index: usize, next: i64) -> Result<(), Fault> {
        let now = self.clock.now();
        let began = self.began;
        let (place, member) = self.at(index)?;
        member.restored(place.partition, next, now)?;
        let ms = began.elapsed().as_millis();
        tracing::info!(
            stage = member.name(),
            partition = place.partition,
            from = place.from,
            end = place.end,
            read = place.read,
            ms,
            "state restored"
        );
        Ok(())
    }
}

/// The state of some partitions, being read back.
pub(crate) struct Reading {
    places: Vec<Place>,
    partitions: BTreeSet<i32>,
    began: Instant,
}

impl Reading {
    /// Begins to take these partitions over. `owned`: partitions the stage has at work.
    pub(crate) fn begin(
        members: &mut [Box<dyn Member>],
        cx: &mut StageContext,
        partitions: &BTreeSet<i32>,
        owned: usize,
    ) -> Result<Self, Fault> {
        let mut places = Vec::new();
        let mut changelogs: Vec<Changelog> = Vec::new();
        for &partition in partitions {
            for (member, part) in members.iter_mut().enumerate() {
                let Some((topic, from)) = part.own(partition, cx.clock.now())? else {
                    continue;
                };
                changelogs.push((topic, partition));
                places.push(Place {
                    member,
                    partition,
                    from,
                    end: 0,
                    read: 0,
                });
            }
        }
        if !changelogs.is_empty() {
            let what = format!("{} changelogs", changelogs.len());
            cx.health.set(&cx.stage, StageState::Restoring(what), owned);
            cx.log.restore_begin(&changelogs)?;
        }
        Ok(Self {
            places,
            partitions: partitions.clone(),
            began: Instant::now(),
        })
    }

    /// Goes on for about so long; true when all is read.
    pub(crate) fn more(
        &mut self,
        members: &mut [Box<dyn Member>],
        cx: &mut StageContext,
        owned: usize,
        at_most: Duration,
    ) -> Result<bool, Fault> {
        if self.places.is_empty() {
            return Ok(true);
        }
        let mut progress = Progress {
            members,
            places: &mut self.places,
            stage: cx.stage.as_str().into(),
            health: cx.health.clone(),
            clock: cx.clock.clone(),
            owned,
            began: self.began,
        };
        cx.log.restore_more(&mut progress, at_most)
    }

    /// All is read: the partitions are at work from here on.
    pub(crate) fn came(self, members: &mut [Box<dyn Member>], cx: &StageContext) -> Result<(), Fault> {
        for &partition in &self.partitions {
            members.iter_mut().try_for_each(|m| m.came(partition))?;
        }
        let mut read: BTreeMap<&str, u64> = BTreeMap::new();
        for place in &self.places {
            let name = members.get(place.member).map_or("", |m| m.name());
            *read.entry(name).or_default() += place.read;
        }
        for (name, read) in read {
            let read = usize::try_from(read).unwrap_or(usize::MAX);
            cx.metrics.gauge(name, "restored", read);
        }
        Ok(())
    }
}

/// Reads the members' state of these partitions back, from what is known without their changelogs, if anything, to their ends.
/// `owned`: partitions the stage has at work.
///
/// # Errors
/// A dependency fault: to be tried again from the start. `STATE_UNREADABLE`, `STATE_ON_DISK`.
pub fn restore(
    members: &mut [Box<dyn Member>],
    cx: &mut StageContext,
    partitions: &BTreeSet<i32>,
    owned: usize,
) -> Result<(), Fault> {
    let mut reading = Reading::begin(members, cx, partitions, owned)?;
    while !reading.more(members, cx, owned, Duration::from_secs(1))? {}
    reading.came(members, cx)
}
