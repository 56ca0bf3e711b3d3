//! `mem_limit`, `cpus` and `deploy.resources.limits`: one limit, also where it is given twice.

use bramble_contracts::{
    quantity::{ByteSize, MilliCpus},
    v1::Resources,
};

use super::{
    cursor::{At, Findings},
    quantities,
};

/// A limit and where it was given first; zero is none.
struct Limit<'n, T> {
    given: Option<(Option<T>, At<'n>)>,
}

impl<'n, T: PartialEq + Copy> Limit<'n, T> {
    fn set(&mut self, value: Option<T>, at: At<'n>, f: &mut Findings) {
        match &self.given {
            Some((first, there)) if *first != value => {
                at.wrong(f, format!("is another limit than {}, on line {}", there.place().path, there.line()));
            }
            Some(_) => {}
            None => self.given = Some((value, at)),
        }
    }

    fn value(&self) -> Option<T> {
        self.given.as_ref().and_then(|(value, _)| *value)
    }
}

/// The limits of a service, as they are met.
pub(super) struct Limits<'n> {
    memory: Limit<'n, ByteSize>,
    cpus: Limit<'n, MilliCpus>,
}

impl<'n> Limits<'n> {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { memory: Limit { given: None }, cpus: Limit { given: None } }
    }

    /// `mem_limit`, or `deploy.resources.limits.memory`.
    pub(super) fn memory(&mut self, at: At<'n>, f: &mut Findings) {
        let Some(text) = at.text(f) else { return };
        match quantities::bytes(&text) {
            Some(bytes) => self.memory.set((bytes.0 > 0).then_some(bytes), at, f),
            None => at.wrong(f, format!("{text:?} is not a size such as 512m or 1g")),
        }
    }

    /// `cpus`, or `deploy.resources.limits.cpus`.
    pub(super) fn cpus(&mut self, at: At<'n>, f: &mut Findings) {
        let Some(text) = at.text(f) else { return };
        match quantities::cpus(&text) {
            Some(cpus) => self.cpus.set(cpus, at, f),
            None => at.wrong(f, format!("{text:?} is not a number of processors such as 0.5, to the thousandth")),
        }
    }

    /// `deploy`: its limits, and that there is one container.
    pub(super) fn deploy(&mut self, at: &At<'n>, f: &mut Findings) {
        for (key, value) in at.fields(f) {
            match key {
                "resources" => self.resources(&value, f),
                "mode" => value.only(f, "replicated", "is not supported: a service is one container on each device"),
                "replicas" => replicas(&value, f),
                "restart_policy" => value.wrong(f, "is not supported: use `restart`"),
                "update_config" | "rollback_config" => {
                    value.wrong(
                        f,
                        "is not supported: say how a change goes through the fleet in `x-bramble: { rollout: … }`",
                    );
                }
                "placement" => {
                    value.wrong(f, "is not supported: say for which devices in `x-bramble: { selector: … }`");
                }
                _ => value.wrong(f, "is not supported: resources.limits is"),
            }
        }
    }

    fn resources(&mut self, at: &At<'n>, f: &mut Findings) {
        for (key, value) in at.fields(f) {
            match key {
                "limits" => {
                    for (key, value) in value.fields(f) {
                        match key {
                            "memory" => self.memory(value, f),
                            "cpus" => self.cpus(value, f),
                            _ => value.wrong(f, "is not supported: memory and cpus are"),
                        }
                    }
                }
                "reservations" => value.wrong(f, "is not supported: nothing is reserved on a device; use limits"),
                _ => value.wrong(f, "is not supported: limits are"),
            }
        }
    }

    /// As the contracts have them.
    pub(super) fn resources_of(&self) -> Resources {
        Resources { memory: self.memory.value(), cpus: self.cpus.value() }
    }
}

/// `scale` and `deploy.replicas`.
pub(super) fn replicas(at: &At<'_>, f: &mut Findings) {
    at.only(f, "1", "is not supported: a service is one container on each device that is selected");
}
