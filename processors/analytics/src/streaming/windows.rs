//! Windows of event time: which pane a time falls into, which windows a pane belongs to, and when each ends. Times are microseconds.

use super::span;

/// How a view cuts time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Window {
    Tumble { width: i64 },
    Hop { slide: i64, width: i64 },
    Session { gap: i64 },
}

impl Window {
    /// Width of the panes that the local half aggregates by; a session's are single instants.
    pub(crate) fn pane(self) -> i64 {
        match self {
            Self::Tumble { width } => width,
            Self::Hop { slide, width } => gcd(slide, width),
            Self::Session { .. } => 1,
        }
    }

    pub(crate) fn is_session(self) -> bool {
        matches!(self, Self::Session { .. })
    }

    /// End of the last window that holds `ts`: once it is late, the record is too late for the view.
    pub(crate) fn last_end(self, ts: i64) -> i64 {
        match self {
            Self::Tumble { width } => floor(ts, width).saturating_add(width),
            Self::Hop { slide, width } => floor(ts, slide).saturating_add(width),
            Self::Session { gap } => ts.saturating_add(gap),
        }
    }

    /// End of the window that starts at `start`; a session's last record is `last`.
    pub(crate) fn end(self, start: i64, last: i64) -> i64 {
        match self {
            Self::Tumble { width } | Self::Hop { width, .. } => start.saturating_add(width),
            Self::Session { gap } => last.saturating_add(gap),
        }
    }

    /// Starts of the windows that the pane at `pane` belongs to, oldest first.
    pub(crate) fn starts(self, pane: i64) -> impl Iterator<Item = i64> {
        let (slide, width) = match self {
            Self::Hop { slide, width } => (slide, width),
            _ => (1, 1),
        };
        let newest = floor(pane, slide);
        let oldest = floor(pane - width, slide) + slide;
        (0..)
            .map(move |i| oldest + i * slide)
            .take_while(move |start| *start <= newest)
    }

    /// How long after its pane's start (a session: its last record) a partial row may still be needed to tell a window again.
    pub(crate) fn kept(self, lateness: i64) -> i64 {
        let length = match self {
            Self::Tumble { width } => width,
            Self::Hop { width, .. } => 2 * width,
            Self::Session { gap } => 2 * gap,
        };
        length.saturating_add(lateness)
    }

    /// The widest stretch of time that one window may cover before its end is known.
    pub(crate) fn width(self) -> i64 {
        match self {
            Self::Tumble { width } | Self::Hop { width, .. } => width,
            Self::Session { gap } => gap,
        }
    }

    pub(crate) fn describe(self) -> String {
        match self {
            Self::Tumble { width } => format!("tumble {}", span::text(width)),
            Self::Hop { slide, width } => {
                let pane = span::text(self.pane());
                format!(
                    "hop {} every {} (panes of {pane})",
                    span::text(width),
                    span::text(slide)
                )
            }
            Self::Session { gap } => format!("session with a gap of {}", span::text(gap)),
        }
    }
}

/// The greatest multiple of `step` that is not after `ts`.
pub(crate) fn floor(ts: i64, step: i64) -> i64 {
    ts.saturating_sub(ts.rem_euclid(step))
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panes_know_their_windows() {
        let hop = Window::Hop { slide: 15, width: 60 };
        assert_eq!(hop.pane(), 15);
        assert_eq!(hop.starts(60).collect::<Vec<_>>(), [15, 30, 45, 60]);
        assert_eq!(hop.last_end(74), 120);
        let uneven = Window::Hop { slide: 10, width: 25 };
        assert_eq!(uneven.pane(), 5);
        assert_eq!(uneven.starts(25).collect::<Vec<_>>(), [10, 20]);
        assert_eq!(uneven.starts(20).collect::<Vec<_>>(), [0, 10, 20]);
        let tumble = Window::Tumble { width: 10 };
        assert_eq!(
            (tumble.last_end(-1), tumble.last_end(9), tumble.last_end(10)),
            (0, 10, 20)
        );
        assert_eq!(Window::Session { gap: 20 }.end(5, 30), 50);
    }
}
