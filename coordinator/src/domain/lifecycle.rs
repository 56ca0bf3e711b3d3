//! The life of a device: one total table of what is allowed when, decided before anything is touched.

use bramble_contracts::api::DeviceState;

/// What an operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Let a pending device work.
    Approve,
    /// Cut it off.
    Quarantine,
    /// Let it back.
    Unquarantine,
    /// Out of service for good.
    Decommission,
}

impl std::fmt::Display for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Approve => "approved",
            Self::Quarantine => "quarantined",
            Self::Unquarantine => "let back from quarantine",
            Self::Decommission => "decommissioned",
        })
    }
}

/// Not allowed in this state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a device that is {} cannot be {ask}", word(*.state))]
pub struct NotNow {
    /// What was asked.
    pub ask: Ask,
    /// Where the device is.
    pub state: DeviceState,
}

/// The state after `ask`; the same state means that there is nothing to do.
pub fn admit(state: DeviceState, ask: Ask) -> Result<DeviceState, NotNow> {
    use {Ask as A, DeviceState as S};
    match (state, ask) {
        (S::Pending | S::Active, A::Approve) | (S::Quarantined | S::Active, A::Unquarantine) => Ok(S::Active),
        (S::Pending | S::Active | S::Quarantined, A::Quarantine) => Ok(S::Quarantined),
        (S::Pending | S::Active | S::Quarantined | S::Decommissioned, A::Decommission) => Ok(S::Decommissioned),
        (S::Quarantined, A::Approve)
        | (S::Pending, A::Unquarantine)
        | (S::Decommissioned, A::Approve | A::Quarantine | A::Unquarantine) => Err(NotNow { ask, state }),
    }
}

/// A state in words.
pub fn word(state: DeviceState) -> &'static str {
    match state {
        DeviceState::Pending => "pending",
        DeviceState::Active => "active",
        DeviceState::Quarantined => "quarantined",
        DeviceState::Decommissioned => "decommissioned",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarantine_ends_only_by_unquarantine_and_decommissioning_never() {
        use {Ask as A, DeviceState as S};
        assert_eq!(admit(S::Quarantined, A::Unquarantine), Ok(S::Active));
        assert!(admit(S::Quarantined, A::Approve).is_err());
        for ask in [A::Approve, A::Quarantine, A::Unquarantine] {
            let err = admit(S::Decommissioned, ask).unwrap_err();
            assert!(err.to_string().starts_with("a device that is decommissioned cannot be"), "{err}");
        }
    }
}
