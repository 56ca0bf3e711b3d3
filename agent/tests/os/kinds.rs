//! What is the matter with a new system, and what is to become of it.

use bramble_contracts::v1::Status;

/// Of a package set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Good,
    /// The connection breaks once, for 20 s.
    Reconnects,
    /// The archive is out of reach, once.
    FetchFails,
    /// Root fills up while packages are written, once.
    NoRoom,
    /// There is nothing newer.
    Nothing,
    /// A package's script fails.
    AptFails,
    /// A package's script does not end.
    AptHangs,
    /// The new kernel dies before the guard runs.
    PanicsEarly,
    /// The new initramfs is without the guard.
    NoGuard,
    /// systemd comes to a standstill; the hardware watchdog resets.
    Hangs,
    /// The agent is not there any more.
    NoAgent,
    /// It ends soon after each start, before it says anything.
    AgentCrashes,
    /// It never gets a connection.
    NoBroker,
    /// It is lost again and again.
    Flaps,
    /// An app does not come up.
    SickApp,
    /// The clock stands at 1970.
    ClockUnfit,
    /// The firmware takes no wish for a boot on trial. No package set, so it is in no list.
    NoTryboot,
}

/// Every one.
pub const ALL: [Kind; 16] = [
    Kind::Good,
    Kind::Reconnects,
    Kind::FetchFails,
    Kind::NoRoom,
    Kind::Nothing,
    Kind::AptFails,
    Kind::AptHangs,
    Kind::PanicsEarly,
    Kind::NoGuard,
    Kind::Hangs,
    Kind::NoAgent,
    Kind::AgentCrashes,
    Kind::NoBroker,
    Kind::Flaps,
    Kind::SickApp,
    Kind::ClockUnfit,
];

impl Kind {
    /// Is it to be confirmed in the end?
    pub fn is_sound(self) -> bool {
        matches!(self, Self::Good | Self::Reconnects | Self::FetchFails | Self::NoRoom | Self::Nothing)
    }

    /// How its first run ends, why, and whether its packages are refused from then on. Nobody disturbs it.
    pub fn first_end(self) -> (Status, &'static str, bool) {
        use Status::{Confirmed, Failed, RolledBack};
        match self {
            Self::Good | Self::Reconnects => (Confirmed, "", false),
            Self::Nothing => (Confirmed, "there is nothing to upgrade", false),
            Self::FetchFails => (Failed, "packages cannot be fetched: no route to host", false),
            Self::NoRoom => (RolledBack, "no room: root is full", false),
            Self::AptFails => (RolledBack, "packages failed: bad-postinst: exit status 3", true),
            Self::AptHangs => (RolledBack, "could not apply: it did not end in its time", true),
            Self::PanicsEarly | Self::Hangs => (RolledBack, "the new system did not come up", true),
            Self::NoGuard => (RolledBack, "the boot guard did not run", true),
            Self::NoAgent | Self::AgentCrashes => (RolledBack, "the agent did nothing for 1 min after reboot", true),
            Self::NoBroker => (RolledBack, "no broker for 1 min after reboot", false),
            Self::Flaps => (RolledBack, "the broker was lost: it has to stay for 20 s", false),
            Self::SickApp => (RolledBack, "app web unhealthy: probe http :80 → 500", true),
            Self::ClockUnfit => (RolledBack, "the clock is not fit: it is before the floor", false),
            Self::NoTryboot => {
                (RolledBack, "no reboot on trial: could not reboot on trial by force: it takes no wishes", false)
            }
        }
    }
}
