//! Reads the state of partitions back from their changelogs: all members' at once, since finding out where a changelog ends is
//! most of what a short one costs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

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
    places: Vec<Place>,
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
    let began = Instant::now();
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
    if changelogs.is_empty() {
        return Ok(());
    }
    let what = format!("{} changelogs", changelogs.len());
    cx.health.set(&cx.stage, StageState::Restoring(what), owned);
    let mut progress = Progress {
        members,
        places,
        stage: cx.stage.as_str().into(),
        health: cx.health.clone(),
        clock: cx.clock.clone(),
        owned,
        began,
    };
    cx.log.restore(&changelogs, &mut progress)?;
    let mut read: BTreeMap<&str, u64> = BTreeMap::new();
    for place in &progress.places {
        let name = progress.members.get(place.member).map_or("", |m| m.name());
        *read.entry(name).or_default() += place.read;
    }
    for (name, read) in read {
        let read = usize::try_from(read).unwrap_or(usize::MAX);
        cx.metrics.gauge(name, "restored", read);
    }
    Ok(())
}
