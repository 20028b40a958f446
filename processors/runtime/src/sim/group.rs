//! Groups of the simulated cluster: who owns which partition, and what members are told of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kernel::Polled;

use super::cluster::{Cluster, Inner};

impl Inner {
    pub(super) fn owns(&self, group: &str, instance: &str, partition: i32) -> bool {
        self.owners
            .get(&(group.to_owned(), partition))
            .is_some_and(|o| o == instance)
    }

    pub(super) fn next_event(&mut self, group: &str, instance: &str) -> Option<Polled> {
        self.inbox
            .get_mut(&(group.to_owned(), instance.to_owned()))?
            .pop_front()
    }

    fn tell(&mut self, group: &str, instance: &str, event: Polled) {
        let inbox = self.inbox.entry((group.to_owned(), instance.to_owned())).or_default();
        inbox.push_back(event);
    }

    /// An instance lets go of partitions: whoever is to have them is told.
    pub(super) fn release(&mut self, group: &str, topics: &[String], instance: &str, partitions: &[i32]) {
        for &partition in partitions {
            let place = (group.to_owned(), partition);
            if self.owners.get(&place).is_none_or(|o| o != instance) {
                continue;
            }
            let Some(next) = self.handing.remove(&place) else {
                continue;
            };
            let parts = topics.iter().map(|t| (t.clone(), partition)).collect();
            self.owners.insert(place, next.clone());
            self.tell(group, &next, Polled::Assigned(parts));
        }
    }
}

impl Cluster {
    /// Gives partitions of the topics a group subscribes to to instances: `owners` by partition. In good order a former owner is
    /// asked and has them until it lets go; abruptly, or when it is dead, it hears of its loss when it polls next and is fenced
    /// until then.
    pub fn assign(
        &self,
        group: &str,
        topics: &[String],
        owners: &BTreeMap<i32, String>,
        dead: &BTreeSet<String>,
        abruptly: bool,
    ) {
        let mut inner = self.lock();
        for (&partition, owner) in owners {
            let place = (group.to_owned(), partition);
            let parts: Vec<_> = topics.iter().map(|t| (t.clone(), partition)).collect();
            let before = inner.owners.get(&place).cloned();
            match before {
                Some(before) if before == *owner && inner.handing.contains_key(&place) => {
                    // It has been asked already: it gets them back when it has let go.
                    inner.handing.insert(place, owner.clone());
                }
                Some(before) if before == *owner => {}
                Some(before) if !dead.contains(&before) && !abruptly => {
                    if inner.handing.insert(place, owner.clone()).is_none() {
                        inner.tell(group, &before, Polled::Revoked(parts));
                    }
                }
                before => {
                    inner.handing.remove(&place);
                    inner.owners.insert(place, owner.clone());
                    if let Some(before) = before.filter(|b| !dead.contains(b)) {
                        inner.tell(group, &before, Polled::Lost(parts.clone()));
                    }
                    inner.tell(group, owner, Polled::Assigned(parts));
                }
            }
        }
    }

    /// Partitions an instance has.
    pub fn owned(&self, group: &str, instance: &str) -> Vec<i32> {
        let inner = self.lock();
        let owners = inner.owners.iter();
        let mine = owners.filter(|((g, _), owner)| g == group && *owner == instance);
        mine.map(|((_, p), _)| *p).collect()
    }

    /// A process begins: what its predecessor of the same name was told is forgotten, and it is given what it owns.
    pub fn join(&self, group: &str, topics: &[String], instance: &str) {
        let mut inner = self.lock();
        // What a former process of its name left open ends with the start of this one's producers.
        inner.end(&format!("{group}/{instance}"));
        // What it was asked to give up before it died is given up.
        let given: Vec<_> = inner
            .handing
            .keys()
            .filter(|place| place.0 == group && inner.owners.get(*place).is_some_and(|o| o == instance))
            .map(|(_, p)| *p)
            .collect();
        inner.release(group, topics, instance, &given);
        let mine: Vec<_> = inner
            .owners
            .iter()
            .filter(|((g, _), owner)| g == group && *owner == instance)
            .flat_map(|((_, p), _)| topics.iter().map(|t| (t.clone(), *p)))
            .collect();
        let inbox = VecDeque::from([Polled::Assigned(mine)]);
        inner.inbox.insert((group.to_owned(), instance.to_owned()), inbox);
    }
}
