//! What is the matter with a new version.

use super::world::MINUTE;

/// Of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Good,
    /// Its signatures do not suffice.
    WrongSignature,
    /// It was signed long ago, and its time is over: somebody plays it again.
    Replayed,
    /// It lies below the floor.
    BelowFloor,
    /// What comes in is not what the manifest says.
    WrongDigest,
    /// The download breaks off, once.
    Truncated,
    /// The disk fills up in the download, once.
    DiskFull,
    SelfTestFails,
    /// The self-test does not answer.
    SelfTestHangs,
    /// The program cannot be started at all: it ends before its first line.
    CannotStart,
    /// It ends before it is ready.
    CrashesStarting,
    /// It comes to a standstill before it is ready.
    HangsStarting,
    /// It never gets a connection, and so never beats.
    NeverConnects,
    /// It ends soon after it took over.
    CrashesActing,
    /// It comes to a standstill after it took over; the watchdog sees it soon.
    HangsActing,
    /// The same, and the watchdog is fed for long: the old one has to end it.
    HangsLong,
    /// It takes over, and does not come to an end with its apps.
    NeverReconciles,
    /// It loses its connection as soon as it acts.
    Disconnects,
}

/// Every one.
pub const ALL: [Kind; 18] = [
    Kind::Good,
    Kind::WrongSignature,
    Kind::Replayed,
    Kind::BelowFloor,
    Kind::WrongDigest,
    Kind::Truncated,
    Kind::DiskFull,
    Kind::SelfTestFails,
    Kind::SelfTestHangs,
    Kind::CannotStart,
    Kind::CrashesStarting,
    Kind::HangsStarting,
    Kind::NeverConnects,
    Kind::CrashesActing,
    Kind::HangsActing,
    Kind::HangsLong,
    Kind::NeverReconciles,
    Kind::Disconnects,
];

impl Kind {
    /// Is it to be confirmed in the end, by a coordinator that wants it?
    pub fn is_sound(self) -> bool {
        matches!(self, Self::Good | Self::Truncated | Self::DiskFull)
    }

    /// Does it get so far that what the coordinator says makes a difference, and a difference of its own?
    pub fn meets_moods(self) -> bool {
        matches!(self, Self::Good | Self::CrashesActing | Self::HangsLong | Self::NeverReconciles)
    }

    /// When the supervisor's watchdog ends one that hangs.
    pub fn watchdog_ms(self) -> u64 {
        if self == Self::HangsLong { 20 * MINUTE } else { MINUTE }
    }
}
