//! One service of a Compose file, field by field, as far as it can be read by itself.
//!
//! Decides: what is mapped, and that the rest is refused by name. Deliberately does not: look at the other services;
//! see `order` and `project`.

use bramble_contracts::{
    Name,
    quantity::Millis,
    v1::{
        DependencyCondition, EnvVar, ImagePullPolicy, ImageRef, Port, Probe, Protocol, Resources, Signal, VolumeMount,
    },
};

use super::{
    Surroundings, command,
    cursor::{At, Findings},
    environment::{self, Environment},
    health,
    limits::{self, Limits},
    ports, volumes, words,
};
use crate::manifest::places::Place;

/// A value that may be asked where it stands.
pub(super) type Placed<'n, T> = Option<(T, At<'n>)>;

/// More are refused: no deployment has as many containers.
const DEPENDS_MAX: usize = 64;

/// What `restart` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    No,
    Always,
    OnFailure,
}

/// One line of `depends_on`.
pub(super) struct Depends<'n> {
    /// The other service, as it is called in the file.
    pub on: String,
    /// What is asked of it.
    pub condition: DependencyCondition,
    /// Where.
    pub at: At<'n>,
}

/// A service. What is missing or wrong has been told.
pub(super) struct Service<'n> {
    pub at: At<'n>,
    pub key: &'n str,
    pub name: Option<Name>,
    pub image: Placed<'n, ImageRef>,
    pub entrypoint: Placed<'n, Vec<String>>,
    pub command: Placed<'n, Vec<String>>,
    pub env: Vec<(EnvVar, Place)>,
    pub ports: Vec<(Port, Place)>,
    pub exposed: Vec<(u16, Protocol, At<'n>)>,
    pub volumes: Vec<(VolumeMount, Place)>,
    pub resources: Resources,
    pub probe: Placed<'n, Probe>,
    pub restart: Placed<'n, Policy>,
    pub stop_signal: Placed<'n, Signal>,
    pub grace: Placed<'n, Millis>,
    pub depends: Vec<Depends<'n>>,
    pub host_network: Option<At<'n>>,
    pub networks: Placed<'n, Vec<String>>,
    pub pull: ImagePullPolicy,
    pub timeout: Placed<'n, Millis>,
}

impl<'n> Service<'n> {
    /// One of which nothing has been read yet.
    fn new(key: &'n str, at: At<'n>, name: Option<Name>) -> Self {
        Self {
            at,
            key,
            name,
            image: None,
            entrypoint: None,
            command: None,
            env: vec![],
            ports: vec![],
            exposed: vec![],
            volumes: vec![],
            resources: Resources::default(),
            probe: None,
            restart: None,
            stop_signal: None,
            grace: None,
            depends: vec![],
            host_network: None,
            networks: None,
            pull: ImagePullPolicy::default(),
            timeout: None,
        }
    }
}

/// Reads a service.
pub(super) fn read<'n>(
    key: &'n str,
    at: &At<'n>,
    around: &Surroundings<'_>,
    declared: &volumes::Declared,
    f: &mut Findings,
) -> Service<'n> {
    let mut s = Service::new(key, at.clone(), name(key, at, f));
    let mut limits = Limits::new();
    for (key, value) in at.fields(f) {
        let v = value.clone();
        match key {
            "image" => s.image = image(&v, f).map(|image| (image, value)),
            "entrypoint" => s.entrypoint = command::words(&v, f).map(|words| (words, value)),
            "command" => s.command = command::words(&v, f).map(|words| (words, value)),
            // Together, below.
            "environment" | "env_file" => {}
            "ports" => s.ports = ports::ports(&v, f),
            "expose" => s.exposed = ports::exposed(&v, f),
            "volumes" => s.volumes = volumes::mounts(&v, declared, f),
            "mem_limit" => limits.memory(v, f),
            "cpus" => limits.cpus(v, f),
            "deploy" => limits.deploy(&v, f),
            "scale" => limits::replicas(&v, f),
            "healthcheck" => s.probe = health::probe(&v, f).map(|probe| (probe, value)),
            "restart" => s.restart = restart(&v, f).map(|policy| (policy, value)),
            "stop_signal" => s.stop_signal = signal(&v, f).map(|signal| (signal, value)),
            "stop_grace_period" => s.grace = health::duration(&v, f).map(|time| (time, value)),
            "depends_on" => {
                s.depends = depends(&v, f);
                if s.depends.len() > DEPENDS_MAX {
                    v.wrong(f, format!("are more than {DEPENDS_MAX}"));
                    s.depends.clear();
                }
            }
            "network_mode" => {
                if v.text(f).as_deref() == Some("host") {
                    s.host_network = Some(v);
                } else {
                    v.wrong(
                        f,
                        "is not supported: services share one network; `host`, for all of them, is the device's",
                    );
                }
            }
            "networks" => s.networks = Some((networks(&v, f), v)),
            "pull_policy" => s.pull = pull(&v, f).unwrap_or_default(),
            other => v.wrong(f, words::service(other)),
        }
    }
    s.resources = limits.resources_of();
    s.env = variables(at, around, f);
    if let Some(extension) = at.get("x-bramble") {
        for (key, value) in extension.entries(f) {
            match key {
                "timeout" => s.timeout = health::duration(&value, f).map(|time| (time, value)),
                _ => value.wrong(f, "is no field of a service's x-bramble: timeout is"),
            }
        }
    }
    if s.image.is_none() && at.get("image").is_none() {
        at.wrong(f, "`image` is missing");
    }
    s
}

/// The service's name is its host name for the others, so it stays as it is or is refused.
fn name(key: &str, at: &At<'_>, f: &mut Findings) -> Option<Name> {
    let name = key.parse().ok();
    if name.is_none() {
        let how = volumes::name(key).map_or(String::new(), |name| format!(", such as {name},"));
        at.wrong(
            f,
            format!(
                "{key:?} cannot be a host name (1 to 63 of a-z, 0-9 and -): rename the service{how} \
                 here and where others call it"
            ),
        );
    }
    name
}

/// As Docker completes it: `nginx` is `docker.io/library/nginx`.
fn image(at: &At<'_>, f: &mut Findings) -> Option<ImageRef> {
    let text = at.text(f)?;
    if text.is_empty() || text.ends_with([':', '/', '@']) {
        at.wrong(f, "is not whole: is a variable in it empty?");
        return None;
    }
    let full = match text.split_once('/') {
        None => format!("docker.io/library/{text}"),
        Some((registry, _)) if registry.contains(['.', ':']) || registry == "localhost" => text,
        Some(_) => format!("docker.io/{text}"),
    };
    full.parse().map_err(|why| at.wrong(f, format!("{why}"))).ok()
}

fn variables(at: &At<'_>, around: &Surroundings<'_>, f: &mut Findings) -> Vec<(EnvVar, Place)> {
    let mut environment = Environment::default();
    if let Some(files) = at.get("env_file") {
        environment::files(&files, around, &mut environment, f);
    }
    if let Some(inline) = at.get("environment") {
        environment::inline(&inline, around, &mut environment, f);
    }
    environment.variables(f)
}

fn restart(at: &At<'_>, f: &mut Findings) -> Option<Policy> {
    match at.text(f)?.as_str() {
        "no" | "false" => Some(Policy::No),
        // They part only where somebody stops a container by hand.
        "always" | "unless-stopped" => Some(Policy::Always),
        "on-failure" => Some(Policy::OnFailure),
        text if text.starts_with("on-failure:") => {
            let how = "write on-failure: a crash loop is reported, and tries become rarer instead of ending";
            at.wrong(f, format!("a number of tries is not supported; {how}"));
            None
        }
        _ => {
            at.wrong(f, "is no, always, on-failure or unless-stopped");
            None
        }
    }
}

fn signal(at: &At<'_>, f: &mut Findings) -> Option<Signal> {
    let text = at.text(f)?;
    let full = if text.starts_with("SIG") { text } else { format!("SIG{text}") };
    full.parse().map_err(|why| at.wrong(f, format!("{why}"))).ok()
}

fn pull(at: &At<'_>, f: &mut Findings) -> Option<ImagePullPolicy> {
    match at.text(f)?.as_str() {
        "always" => Some(ImagePullPolicy::Always),
        "missing" | "if_not_present" => Some(ImagePullPolicy::IfNotPresent),
        "never" => Some(ImagePullPolicy::Never),
        _ => {
            at.wrong(f, "is not supported: always, missing and never are");
            None
        }
    }
}

fn depends<'n>(at: &At<'n>, f: &mut Findings) -> Vec<Depends<'n>> {
    if at.is_list() {
        let started = DependencyCondition::Started;
        let items = at.items(f);
        return items.into_iter().filter_map(|at| Some(Depends { on: at.text(f)?, condition: started, at })).collect();
    }
    let mut all = vec![];
    for (on, at) in at.entries(f) {
        let mut condition = DependencyCondition::Started;
        for (key, value) in at.fields(f) {
            match key {
                "condition" => match value.text(f).as_deref() {
                    Some("service_started") => condition = DependencyCondition::Started,
                    Some("service_healthy") => condition = DependencyCondition::Healthy,
                    Some("service_completed_successfully") => condition = DependencyCondition::Completed,
                    Some(_) => {
                        value.wrong(f, "is service_started, service_healthy or service_completed_successfully");
                    }
                    None => {}
                },
                "required" => value.only(f, "true", "is not supported: what is depended on is there"),
                "restart" => value.only(f, "false", "is not supported: a change replaces the whole deployment anyway"),
                _ => value.wrong(f, "is not supported: condition is"),
            }
        }
        all.push(Depends { on: on.to_owned(), condition, at });
    }
    all
}

fn networks(at: &At<'_>, f: &mut Findings) -> Vec<String> {
    if at.is_list() {
        return at.items(f).iter().filter_map(|item| item.text(f)).collect();
    }
    let mut all = vec![];
    for (name, network) in at.entries(f) {
        for (_, value) in network.fields(f) {
            value.wrong(f, "is not supported: services share one network in which each is reached by its name");
        }
        all.push(name.to_owned());
    }
    all
}
