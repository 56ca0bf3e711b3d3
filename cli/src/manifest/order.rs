//! In what order deployments are sent: those that others depend on come first, else as they were given.
//!
//! So whatever is changed by one call, each deployment finds its dependencies as they are to be. A circle keeps its order;
//! the coordinator knows whether it meets on a device, and refuses it there.

use bramble_contracts::{Name, Tenant, v1::Manifest};

use super::Document;

fn key(manifest: &Manifest) -> (&Tenant, &Name) {
    (&manifest.metadata.tenant, &manifest.metadata.name)
}

/// Sorts them.
pub(super) fn by_dependencies(mut left: Vec<Document>) -> Vec<Document> {
    let mut sorted = vec![];
    while !left.is_empty() {
        let waits = |document: &Document| {
            let of = &document.manifest;
            let on = |name: &Name| left.iter().any(|other| key(&other.manifest) == (&of.metadata.tenant, name));
            of.spec.depends_on.iter().any(|d| d.name != of.metadata.name && on(&d.name))
        };
        let next = left.iter().position(|document| !waits(document)).unwrap_or_default();
        sorted.push(left.remove(next));
    }
    sorted
}
