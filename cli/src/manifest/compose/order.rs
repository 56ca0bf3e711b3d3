//! Which services run first, to completion, and so become init containers.
//!
//! Decides: a service is one when everything else waits for it to complete and it needs nothing that a main container
//! has. All others are main containers that wait for one another.

use std::collections::BTreeSet;

use bramble_contracts::v1::DependencyCondition;

use super::service::{Policy, Service};

/// The init containers, by their place in `services`, in the order in which they run.
pub(super) fn inits(services: &[Service<'_>]) -> Vec<usize> {
    let index = |key: &str| services.iter().position(|s| s.key == key);
    let edges: Vec<Vec<(usize, DependencyCondition)>> = services
        .iter()
        .map(|s| s.depends.iter().filter_map(|d| Some((index(&d.on)?, d.condition))).collect())
        .collect();
    let waits: Vec<BTreeSet<usize>> = (0..services.len()).map(|i| waits_for(i, &edges)).collect();
    let mut first: BTreeSet<usize> = (0..services.len()).filter(|i| may_be_init(&services[*i], *i, &edges)).collect();
    loop {
        let stays = |i: &usize| {
            edges[*i].iter().all(|(on, _)| first.contains(on))
                && (0..services.len()).all(|other| first.contains(&other) || waits[other].contains(i))
        };
        let next: BTreeSet<usize> = first.iter().copied().filter(stays).collect();
        if next.len() == first.len() {
            return in_order(first, &edges);
        }
        first = next;
    }
}

/// It ends by itself, somebody waits for that, and nobody wants anything else of it.
fn may_be_init(service: &Service<'_>, i: usize, edges: &[Vec<(usize, DependencyCondition)>]) -> bool {
    let mut asked = edges.iter().flatten().filter(|(on, _)| *on == i).peekable();
    let ends = match service.restart {
        None | Some((Policy::No | Policy::OnFailure, _)) => true,
        Some((Policy::Always, _)) => false,
    };
    let plain = service.ports.is_empty()
        && service.exposed.is_empty()
        && service.probe.is_none()
        && service.stop_signal.is_none()
        && service.grace.is_none();
    ends && plain && asked.peek().is_some() && asked.all(|(_, condition)| *condition == DependencyCondition::Completed)
}

/// All that a service waits for, also through others.
fn waits_for(from: usize, edges: &[Vec<(usize, DependencyCondition)>]) -> BTreeSet<usize> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(i) = next.pop() {
        next.extend(edges[i].iter().map(|(on, _)| *on).filter(|on| seen.insert(*on)));
    }
    seen
}

/// Each after those it waits for, else as in the file. Those that wait for one another are left out.
fn in_order(mut left: BTreeSet<usize>, edges: &[Vec<(usize, DependencyCondition)>]) -> Vec<usize> {
    let mut order = vec![];
    while let Some(next) = left.iter().copied().find(|i| edges[*i].iter().all(|(on, _)| order.contains(on))) {
        left.remove(&next);
        order.push(next);
    }
    order
}
