//! How much of what is due is told in one transaction. A window of a million keys in one would be a million records that are true together or
//! not at all: a machine that is busy just then gives them up at the transaction's time, and tries again with more. So windows are told in the
//! order of their ends, as many as there is room for; and one that is larger than the room by shares of its keys.

use std::collections::BTreeMap;

/// A window end that is being told by shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) end: i64,
    /// Shares that were told.
    pub(crate) done: u32,
    /// Shares in all.
    pub(crate) of: u32,
}

impl Part {
    /// Which share a key belongs to. Its partition was chosen by the remainder of the same hash: this goes by other bits.
    pub(crate) fn share(self, hash: u64) -> u32 {
        u32::try_from((hash >> 32) % u64::from(self.of.max(1))).unwrap_or(0)
    }
}

/// How far a view's windows are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Those that end until then.
    pub(crate) until: Option<i64>,
    /// The next after them, in part.
    pub(crate) part: Option<Part>,
}

/// Rows that one transaction has room for.
#[derive(Debug)]
pub(crate) struct Room {
    most: usize,
    left: usize,
}

impl Room {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, left: most }
    }

    /// Half of all, so that views which tell a little at each commit do not keep others from ever telling much.
    fn share(&self) -> usize {
        (self.most / 2).max(1)
    }

    fn take_share(&mut self) -> bool {
        let enough = self.left >= self.share();
        if enough {
            self.left -= self.share();
        }
        enough
    }
}

impl Cursor {
    /// How far it is after the next transaction, when windows that end until `until` may be told; `due` counts their rows by end.
    pub(crate) fn next(self, until: i64, due: impl FnOnce() -> BTreeMap<i64, usize>, room: &mut Room) -> Self {
        if let Some(part) = self.part {
            let done = part.done + 1;
            return match room.take_share() {
                false => self,
                true if done < part.of => Self {
                    part: Some(Part { done, ..part }),
                    ..self
                },
                true => Self {
                    until: Some(part.end),
                    part: None,
                },
            };
        }
        let mut reached = self;
        for (end, rows) in due() {
            if rows <= room.left {
                room.left -= rows;
                reached.until = Some(end);
            } else if reached == self && room.take_share() {
                let of = u32::try_from(rows.div_ceil(room.share())).unwrap_or(u32::MAX);
                reached.part = Some(Part { end, done: 1, of });
                return reached;
            } else {
                return reached;
            }
        }
        Self {
            until: Some(until),
            part: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(until: i64) -> Cursor {
        Cursor {
            until: Some(until),
            part: None,
        }
    }

    #[test]
    fn windows_are_told_in_order_as_many_as_there_is_room_for() {
        let due = BTreeMap::from([(10, 4), (20, 5), (30, 2)]);
        for (room, wanted) in [(100, 35), (11, 35), (10, 20), (9, 20), (8, 10)] {
            assert_eq!(
                told(5).next(35, || due.clone(), &mut Room::new(room)),
                told(wanted),
                "room for {room}"
            );
        }
        assert_eq!(Cursor::default().next(35, BTreeMap::new, &mut Room::new(1)), told(35));
    }

    #[test]
    fn a_window_larger_than_the_room_is_told_by_shares() {
        let due = BTreeMap::from([(10, 7), (20, 1)]);
        let (mut at, mut shares) = (told(5), Vec::new());
        while at.until != Some(10) {
            at = at.next(35, || due.clone(), &mut Room::new(4));
            shares.extend(at.part.map(|part| (part.end, part.done, part.of)));
            assert!(shares.len() < 9, "{shares:?}");
        }
        assert_eq!(shares, [(10, 1, 4), (10, 2, 4), (10, 3, 4)]);
    }

    #[test]
    fn where_others_took_the_room_nothing_is_told_yet() {
        let (due, part) = (
            BTreeMap::from([(10, 7)]),
            Part {
                end: 10,
                done: 1,
                of: 4,
            },
        );
        let mut taken = Room { most: 4, left: 1 };
        assert_eq!(told(5).next(35, || due.clone(), &mut taken), told(5));
        let begun = Cursor {
            part: Some(part),
            ..told(5)
        };
        assert_eq!(begun.next(35, || due, &mut taken), begun);
    }
}
