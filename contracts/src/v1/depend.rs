//! Dependencies of one deployment: what is wrong with them, and the circles that they close.
//!
//! Deliberately does not: know other deployments. What a name outside stands for, and whether two deployments meet on a
//! device, the coordinator knows.

use std::collections::{BTreeMap, VecDeque};

use super::{
    spec::{Container, Dependency, DependencyCondition, DeploymentSpec, Restart},
    validate::Findings,
};
use crate::id::Name;

/// A deployment that waits for more than this is hardly meant.
const MAX_DEPENDENCIES: usize = 64;

impl DependencyCondition {
    /// After "waits for …".
    pub const fn words(self) -> &'static str {
        match self {
            Self::Started => "to be started",
            Self::Healthy => "to be healthy",
            Self::Completed => "to complete",
        }
    }
}

/// The shortest way from `start` along `next` back to `start`, both ends named; `None` when there is none.
pub fn circle<K: Ord + Clone>(start: &K, next: impl Fn(&K) -> Vec<K>) -> Option<Vec<K>> {
    let mut came_from: BTreeMap<K, K> = BTreeMap::new();
    let mut open = VecDeque::from([start.clone()]);
    while let Some(at) = open.pop_front() {
        for to in next(&at) {
            if to == *start {
                let mut way = vec![to, at];
                while let Some(before) = way.last().and_then(|last| came_from.get(last)) {
                    way.push(before.clone());
                }
                way.reverse();
                return Some(way);
            }
            if !came_from.contains_key(&to) {
                came_from.insert(to.clone(), at.clone());
                open.push_back(to);
            }
        }
    }
    None
}

/// A circle in words: `a -> b -> a`.
pub fn circle_words<K: ToString>(way: &[K]) -> String {
    way.iter().map(ToString::to_string).collect::<Vec<_>>().join(" -> ")
}

/// Everything that is wrong with the dependencies of a deployment on its own. `name` is the deployment's.
pub(super) fn dependencies(name: &Name, spec: &DeploymentSpec, found: &mut Findings) {
    list("spec.dependsOn", &spec.depends_on, found);
    for (j, _) in spec.depends_on.iter().enumerate().filter(|(_, d)| d.name == *name) {
        found.add(format!("spec.dependsOn[{j}].name"), "a deployment cannot wait for itself: leave it out");
    }
    for (i, container) in spec.containers.iter().enumerate() {
        let at = format!("spec.containers[{i}].dependsOn");
        list(&at, &container.depends_on, found);
        for (j, dependency) in container.depends_on.iter().enumerate() {
            if let Some((field, why)) = unmeetable(spec, container, dependency) {
                found.add(format!("{at}[{j}].{field}"), why);
            }
        }
    }
    circles(spec, found);
}

fn list(at: &str, dependencies: &[Dependency], found: &mut Findings) {
    if dependencies.len() > MAX_DEPENDENCIES {
        found.add(at, format!("more than {MAX_DEPENDENCIES} entries"));
    }
    let mut seen = BTreeMap::new();
    for (j, dependency) in dependencies.iter().enumerate() {
        if let Some(first) = seen.insert(&dependency.name, j) {
            let message = format!("{} is listed already, at {at}[{first}]: one of the two is enough", dependency.name);
            found.add(format!("{at}[{j}].name"), message);
        }
    }
}

/// Why a container could never be started because of this dependency, and the field that says so.
fn unmeetable(
    spec: &DeploymentSpec,
    container: &Container,
    Dependency { name, condition }: &Dependency,
) -> Option<(&'static str, String)> {
    if *name == container.name {
        return Some(("name", "a container cannot wait for itself: leave it out".to_owned()));
    }
    if spec.init_containers.iter().any(|init| init.name == *name) {
        let why =
            format!("{name} is an init container, and those have completed before any other starts: leave it out");
        return Some(("name", why));
    }
    let Some(other) = spec.containers.iter().find(|c| c.name == *name) else {
        let all: Vec<&str> =
            spec.containers.iter().filter(|c| c.name != container.name).map(|c| c.name.as_str()).collect();
        let there =
            if all.is_empty() { "it has no other one".to_owned() } else { format!("it has {}", all.join(", ")) };
        return Some(("name", format!("the deployment has no container {name}; {there}")));
    };
    match condition {
        DependencyCondition::Healthy if other.probe.is_none() => {
            let why = format!(
                "container {name} has no probe, so nobody can say when it is healthy: give it a probe, or wait for started"
            );
            Some(("condition", why))
        }
        DependencyCondition::Completed if other.restart == Restart::Always => {
            let why = format!(
                "container {name} restarts always, so it never completes: give it restart onFailure or never, or wait for started"
            );
            Some(("condition", why))
        }
        DependencyCondition::Started | DependencyCondition::Healthy | DependencyCondition::Completed => None,
    }
}

/// Each circle of containers once, at the first of them.
fn circles(spec: &DeploymentSpec, found: &mut Findings) {
    let next = |name: &Name| {
        let container = spec.containers.iter().find(|c| c.name == *name);
        let others = container.into_iter().flat_map(|c| &c.depends_on).filter(|d| d.name != *name);
        others.map(|d| d.name.clone()).collect()
    };
    let mut told: Vec<Name> = Vec::new();
    for (i, container) in spec.containers.iter().enumerate() {
        if told.contains(&container.name) {
            continue;
        }
        if let Some(way) = circle(&container.name, next) {
            let message =
                format!("these wait for each other: {}; take one of the dependencies out", circle_words(&way));
            found.add(format!("spec.containers[{i}].dependsOn"), message);
            told.extend(way);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::v1::Deployment;

    fn problems(depends: &Value, containers: &Value) -> Vec<String> {
        let deployment = json!({
            "metadata": { "name": "web" },
            "spec": {
                "selector": { "devices": ["pi-1"] },
                "initContainers": [{ "name": "seed", "image": "localhost/a:1" }],
                "containers": containers, "dependsOn": depends,
            },
        });
        let deployment: Deployment = serde_json::from_value(deployment).unwrap();
        deployment.problems().into_iter().map(|p| format!("{}: {}", p.path, p.message)).collect()
    }

    fn container(name: &str, depends: &Value) -> Value {
        json!({ "name": name, "image": "localhost/a:1", "dependsOn": depends })
    }

    #[test]
    fn what_can_be_met_is_accepted() {
        let mut db = container("db", &json!([{ "name": "job", "condition": "completed" }]));
        db["probe"] = json!({ "tcp": { "port": 1 } });
        let mut job = container("job", &json!([]));
        job["restart"] = json!("onFailure");
        let web = container("web", &json!([{ "name": "db", "condition": "healthy" }, { "name": "job" }]));
        let depends = json!([{ "name": "any", "condition": "healthy" }, { "name": "other" }]);
        assert_eq!(problems(&depends, &json!([web, db, job])), Vec::<String>::new());
    }

    #[test]
    fn what_can_never_be_met_is_named_with_its_place() {
        let one = |depends: &Value| problems(&json!([]), &json!([container("a", depends), container("b", &json!([]))]));
        let cases = [
            (json!([{ "name": "x" }]), "[0].name: the deployment has no container x; it has b"),
            (json!([{ "name": "a" }]), "[0].name: a container cannot wait for itself: leave it out"),
            (json!([{ "name": "b" }, { "name": "b", "condition": "healthy" }]), "[1].name: b is listed already, at"),
            (json!([{ "name": "seed" }]), "[0].name: seed is an init container"),
            (json!([{ "name": "b", "condition": "healthy" }]), "[0].condition: container b has no probe"),
            (json!([{ "name": "b", "condition": "completed" }]), "[0].condition: container b restarts always"),
        ];
        for (depends, wanted) in cases {
            let found = one(&depends);
            assert!(found[0].starts_with(&format!("spec.containers[0].dependsOn{wanted}")), "{wanted}: {found:?}");
        }
        let found = problems(&json!([{ "name": "db" }, { "name": "web" }]), &json!([container("a", &json!([]))]));
        assert_eq!(found, ["spec.dependsOn[1].name: a deployment cannot wait for itself: leave it out"]);
    }

    #[test]
    fn every_circle_is_named_once() {
        let to = |name: &str| json!([{ "name": name }]);
        let all = json!([
            container("a", &to("b")),
            container("b", &to("c")),
            container("c", &to("b")),
            container("x", &to("y")),
            container("y", &to("x")),
        ]);
        let wanted = |at: usize, way: &str| {
            format!(
                "spec.containers[{at}].dependsOn: these wait for each other: {way}; take one of the dependencies out"
            )
        };
        assert_eq!(problems(&json!([]), &all), [wanted(1, "b -> c -> b"), wanted(3, "x -> y -> x")]);
    }

    proptest! {
        #[test]
        fn a_circle_is_found_exactly_when_one_can_walk_back(edges in proptest::collection::vec((0u8..8, 0u8..8), 0..20)) {
            let next = |at: &u8| edges.iter().filter(|(from, _)| from == at).map(|(_, to)| *to).collect::<Vec<_>>();
            for start in 0u8..8 {
                // Everything that can be reached, step by step.
                let mut reached: Vec<u8> = next(&start);
                for _ in 0..8 {
                    let more: Vec<u8> = reached.iter().flat_map(next).collect();
                    reached.extend(more);
                    reached.sort_unstable();
                    reached.dedup();
                }
                match circle(&start, next) {
                    Some(way) => {
                        prop_assert!(way.len() >= 2 && way[0] == start && way[way.len() - 1] == start);
                        prop_assert!(way.windows(2).all(|step| edges.contains(&(step[0], step[1]))), "{:?}", way);
                    }
                    None => prop_assert!(!reached.contains(&start)),
                }
            }
        }
    }
}
