//! The machine the figures were taken on, in one sentence: a figure without it says nothing.

use std::fs;

use xtask::run::Cmd;

pub(super) fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let field = |file: &str, key: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|l| l.starts_with(key)).unwrap_or_default();
        line.split_once(':').map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let kib: f64 = field("/proc/meminfo", "MemTotal").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let os = os.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("unknown system").trim_matches('"');
    let said = |program: &str, arg: &str| {
        let said = Cmd::new(program).arg(arg).check().unwrap_or_default();
        said.lines().next().unwrap_or("unknown version").to_owned()
    };
    let broker = crate::programs::place("nats-server");
    let broker = xtask::prepare::nats_server().unwrap_or(broker);
    format!(
        "{cores} cores ({}), {:.1} GiB of memory, kernel {}, {os}, {}, {}, {}. Times are medians (smallest – largest); \
         the programs are those of `cargo build --release`.",
        field("/proc/cpuinfo", "model name"),
        kib / 1024.0 / 1024.0,
        kernel.trim(),
        said("podman", "--version"),
        said("crun", "--version"),
        said(&broker.display().to_string(), "--version"),
    )
}
