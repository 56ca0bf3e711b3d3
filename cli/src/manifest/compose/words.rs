//! What a Compose file may say and Bramble does not do: each by name, with what to do instead.

/// Fields of a service.
const SERVICE: [(&str, &str); 71] = [
    ("annotations", LEAVE),
    ("attach", LEAVE),
    ("blkio_config", LIMITS),
    ("build", "nothing is built: build and push the image, then give `image`"),
    ("cap_add", RIGHTS),
    ("cap_drop", RIGHTS),
    ("cgroup", RIGHTS),
    ("cgroup_parent", RIGHTS),
    ("configs", FILES),
    ("container_name", "leave it out: containers are named by Bramble, and reach one another by the service's name"),
    ("cpu_count", LIMITS),
    ("cpu_percent", LIMITS),
    ("cpu_period", LIMITS),
    ("cpu_quota", LIMITS),
    ("cpu_rt_period", LIMITS),
    ("cpu_rt_runtime", LIMITS),
    ("cpu_shares", LIMITS),
    ("cpuset", LIMITS),
    ("credential_spec", RIGHTS),
    ("develop", LEAVE),
    ("device_cgroup_rules", RIGHTS),
    ("devices", RIGHTS),
    ("dns", NETWORK),
    ("dns_opt", NETWORK),
    ("dns_search", NETWORK),
    ("domainname", NETWORK),
    ("extends", "write the service out, or use an anchor and `<<: *name`"),
    ("external_links", NETWORK),
    ("extra_hosts", NETWORK),
    ("gpus", RIGHTS),
    ("group_add", RIGHTS),
    ("hostname", NETWORK),
    ("init", "leave it out: an image that starts further programs brings its own init"),
    ("ipc", RIGHTS),
    ("isolation", RIGHTS),
    ("label_file", LABELS),
    ("labels", LABELS),
    ("links", "use `depends_on`: services reach one another by name anyway"),
    ("logging", "leave it out: `bramble logs` shows what containers print, and it is bounded on the device"),
    ("mac_address", NETWORK),
    ("mem_reservation", LIMITS),
    ("mem_swappiness", LIMITS),
    ("memswap_limit", LIMITS),
    ("models", LEAVE),
    ("oom_kill_disable", LIMITS),
    ("oom_score_adj", LIMITS),
    ("pid", RIGHTS),
    ("pids_limit", LIMITS),
    ("platform", "leave it out: a device pulls the image of its own architecture"),
    ("post_start", HOOKS),
    ("pre_stop", HOOKS),
    ("privileged", RIGHTS),
    ("profiles", "leave the service out, or write a file for each selection of services"),
    ("provider", LEAVE),
    ("read_only", RIGHTS),
    ("runtime", RIGHTS),
    ("secrets", "secrets do not exist in this version yet"),
    ("security_opt", RIGHTS),
    ("shm_size", LIMITS),
    ("stdin_open", TERMINAL),
    ("storage_opt", LIMITS),
    ("sysctls", RIGHTS),
    ("tmpfs", "leave it out: what is not in a volume is gone with its container"),
    ("tty", TERMINAL),
    ("ulimits", LIMITS),
    ("use_api_socket", "no container gets the container engine's socket"),
    ("user", "it runs as the image says: set USER there"),
    ("userns_mode", RIGHTS),
    ("uts", RIGHTS),
    ("volumes_from", "name the volumes under `volumes`: services that name the same one share it"),
    ("working_dir", "set WORKDIR in the image, or `cd` in the command"),
];

const LEAVE: &str = "leave it out";
const LIMITS: &str = "the limits are mem_limit and cpus";
const RIGHTS: &str = "a container gets no other rights than the engine gives by default";
const FILES: &str = "put the file into the image, or let a service that runs first write it into a volume";
const NETWORK: &str =
    "the services of a file share one network in which each is reached by its name, and nothing else is set";
const LABELS: &str = "containers carry only Bramble's labels; those of the deployment are `x-bramble: { labels: … }`";
const HOOKS: &str = "do it in the command, or in a service that runs first";
const TERMINAL: &str = "leave it out: nobody is at the container; `bramble exec` starts programs in it";

/// Fields of the file itself.
const FILE: [(&str, &str); 4] = [
    ("configs", FILES),
    ("include", "write one file: `docker compose config` does"),
    ("models", LEAVE),
    ("secrets", "secrets do not exist in this version yet"),
];

/// Why a field of a service is refused.
pub(super) fn service(key: &str) -> String {
    refusal(&SERVICE, key, "a service")
}

/// Why a field of the file is refused.
pub(super) fn file(key: &str) -> String {
    refusal(&FILE, key, "a Compose file")
}

fn refusal(known: &[(&str, &str)], key: &str, whose: &str) -> String {
    match known.iter().find(|(name, _)| *name == key) {
        Some((_, how)) => format!("is not supported: {how}"),
        None => format!("is no field of {whose}"),
    }
}
