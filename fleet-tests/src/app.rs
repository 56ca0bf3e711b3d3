//! What runs, as Podman itself says: container ids and start times, to be compared before and after a blow.

use std::collections::BTreeMap;
use std::fmt;

/// The main containers of an app on a device: name → (Podman's id, Podman's `State.StartedAt`). Two that are equal
/// mean: the same containers, and they have run without a break.
#[derive(Clone, PartialEq, Eq)]
pub struct Running(BTreeMap<String, (String, String)>);

impl Running {
    pub(crate) fn new(containers: BTreeMap<String, (String, String)>) -> Self {
        Self(containers)
    }

    /// Podman's id of a container.
    ///
    /// # Panics
    /// When there is none of that name.
    #[must_use]
    pub fn id(&self, container: &str) -> &str {
        &self.0.get(container).unwrap_or_else(|| panic!("there is no container {container} in {self:?}")).0
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |id: &str| id.chars().take(12).collect::<String>();
        f.debug_map()
            .entries(self.0.iter().map(|(name, (id, at))| (name, format!("{} since {at}", short(id)))))
            .finish()
    }
}
