//! Logs in windows: a reader asks for a bounded piece from a place on, and again from where that ended.
//!
//! So nothing is kept on the device for a reader that is slow or has left, and no limit of one answer ends a follower.
//! A place is in the device's own files: it stays good when the agent, the broker or the coordinator starts anew.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    id::{Name, Tenant},
    quantity::{BadQuantity, Millis},
    stamp::{Moment, Stamp},
};

/// One window of the logs of a deployment on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogWindow {
    /// Of the deployment.
    pub tenant: Tenant,
    /// Of which deployment.
    pub deployment: Name,
    /// Of one container; all when absent.
    pub container: Option<Name>,
    /// Where it begins and ends.
    pub span: LogSpan,
    /// When all has been read, waits so long for more.
    pub wait: Option<Millis>,
    /// Ends after about so many bytes: what the reader has room for.
    pub bytes: u32,
}

/// Where a window begins and ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogSpan {
    /// The device finds out, and says it in its first frame.
    Wish(LogWish),
    /// At places it has named.
    On {
        /// From here on; a container that is not here is read from its beginning, but only when `to` is empty.
        from: Vec<LogCursor>,
        /// Up to here; empty is "whatever comes".
        to: Vec<LogCursor>,
    },
}

/// Which lines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogWish {
    /// The last so many lines of each container; all when absent.
    pub tail: Option<u32>,
    /// From the first line on, in the order of the file, that is not older.
    pub since: Option<Moment>,
    /// Up to the last line, in the order of the file, that is not younger.
    pub until: Option<Moment>,
    /// Of which containers.
    pub lives: LogLives,
}

/// A container is made anew for every change of its spec; its name and its log go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogLives {
    /// All there have been, as one log.
    #[default]
    All,
    /// Only the one before the newest.
    Previous,
}

/// A place in a container's log. Places of one log are in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogPlace {
    /// Which making of the container; only grows.
    pub life: u32,
    /// Which file of it; from 1.
    pub segment: u32,
    /// Bytes of the file before it.
    pub offset: u64,
    /// Lines of the file before it.
    pub lines: u32,
    /// So many of those lines ended behind the offset, while a line of the other output was open.
    pub skip: u32,
}

/// A place in the log of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogCursor {
    /// Which container.
    pub container: Name,
    /// The place.
    pub place: LogPlace,
}

/// A part of a window's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogPart {
    /// The first: where the window begins and where it ends.
    Span {
        /// The place before the first line of each container.
        from: Vec<LogCursor>,
        /// The place behind the last one that is wanted, or that was there.
        to: Vec<LogCursor>,
    },
    /// Lines of one container, in the order of its log.
    Lines {
        /// Of which container.
        container: Name,
        /// The lines.
        lines: Vec<LogLine>,
    },
    /// Lines that are not there any more.
    Gap {
        /// Of which container.
        container: Name,
        /// How many; unknown when they were overwritten while no agent ran.
        lines: Option<u64>,
        /// Where it goes on.
        to: LogPlace,
    },
    /// The last, before `End`: is there more?
    Rest(LogRest),
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// By the device's clock; 1970 when the file does not say.
    pub at: Stamp,
    /// On standard error?
    pub stderr: bool,
    /// The text, without its line end.
    pub text: String,
    /// The place behind it.
    pub next: LogPlace,
}

/// What is behind a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogRest {
    /// There is, or may be, more: ask again from where this ended.
    More,
    /// All that was wanted has been sent.
    Done,
    /// The app is gone from this device, and all it has printed was sent.
    Gone,
}

const PLACE: &str = "a place in a log such as 7.3.10234.120.0";

impl fmt::Display for LogPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}.{}", self.life, self.segment, self.offset, self.lines, self.skip)
    }
}

impl FromStr for LogPlace {
    type Err = BadQuantity;
    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let read = || {
            let mut parts = text.split('.');
            let place = Self {
                life: parts.next()?.parse().ok()?,
                segment: parts.next()?.parse().ok()?,
                offset: parts.next()?.parse().ok()?,
                lines: parts.next()?.parse().ok()?,
                skip: parts.next()?.parse().ok()?,
            };
            parts.next().is_none().then_some(place)
        };
        read().ok_or_else(|| BadQuantity { want: PLACE, text: text.chars().take(80).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_ordered_and_read_back() {
        let place = |life, segment, offset| LogPlace { life, segment, offset, lines: 9, skip: 1 };
        assert!(place(1, 9, 9) < place(2, 1, 0) && place(2, 1, 0) < place(2, 1, 5));
        assert_eq!(place(7, 3, 10_234).to_string().parse(), Ok(place(7, 3, 10_234)));
        for bad in ["", "1.2.3.4", "1.2.3.4.5.6", "a.1.1.1.1", "-1.1.1.1.1"] {
            assert!(bad.parse::<LogPlace>().is_err(), "{bad}");
        }
    }
}
