//! Numbers for people and Prometheus. Decides: names. Deliberately does not: judge.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bramble_contracts::api::{Connection, DeviceState};

use crate::domain::{lifecycle, view::Lens};

/// Method, route and status.
type Answered = (String, String, u16);
/// How often, and for how many microseconds in all.
type Sum = (u64, u64);

/// Counters that only grow.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Documents written.
    pub written: AtomicU64,
    /// Writes that lost a race.
    pub conflicts: AtomicU64,
    /// Passes put off, because the index was behind the store.
    pub stale: AtomicU64,
    /// Passes that failed.
    pub failed: AtomicU64,
    /// Devices put on hold.
    pub holds: AtomicU64,
    http: Mutex<BTreeMap<Answered, Sum>>,
}

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Metrics {
    /// An HTTP request was answered.
    pub fn http(&self, method: &str, route: &str, status: u16, micros: u64) {
        let mut http = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = http.entry((method.to_owned(), route.to_owned(), status)).or_default();
        entry.0 += 1;
        entry.1 += micros;
    }

    /// Everything as Prometheus text.
    pub fn text(&self, lens: &Lens<'_>) -> String {
        let mut out = String::new();
        let mut counter = |name: &str, help: &str, value: u64| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}");
        };
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        counter("bramble_documents_written_total", "Desired documents written.", get(&self.written));
        counter("bramble_write_conflicts_total", "Writes that lost a race.", get(&self.conflicts));
        counter("bramble_reconcile_stale_total", "Passes put off until the index has caught up.", get(&self.stale));
        counter("bramble_reconcile_failed_total", "Passes that failed.", get(&self.failed));
        counter("bramble_holds_total", "Devices put on hold.", get(&self.holds));
        self.gauges(lens, &mut out);
        self.http_text(&mut out);
        out
    }

    fn gauges(&self, lens: &Lens<'_>, out: &mut String) {
        let mut devices: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        let mut held = 0;
        for id in lens.fleet.device_ids() {
            let state = lens.fleet.device(&id).record().map_or(DeviceState::Active, |r| r.state);
            *devices.entry((lifecycle::word(state), connection_word(lens.connection(&id)))).or_default() += 1;
            held += u64::from(lens.hold(&id).is_some());
        }
        let _ = writeln!(out, "# HELP bramble_devices Devices by state and connection.\n# TYPE bramble_devices gauge");
        for ((state, connection), n) in devices {
            let _ = writeln!(out, "bramble_devices{{state=\"{state}\",connection=\"{connection}\"}} {n}");
        }
        let mut gauge = |name: &str, help: &str, value: u64| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
        };
        gauge("bramble_devices_on_hold", "Devices on hold.", held);
        gauge("bramble_deployments", "Deployments.", lens.fleet.deployments.iter().count() as u64);
        gauge("bramble_alarms", "Values in the store that cannot be read.", lens.fleet.alarms().len() as u64);
        let waits = lens.fleet.waits_for().len() as u64;
        gauge("bramble_recovering", "1 while the coordinator catches up with its store.", waits.min(1));
        gauge("bramble_store_buckets_behind", "Buckets that are not read yet; 1 when the broker is away.", waits);
    }

    fn http_text(&self, out: &mut String) {
        let http = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(
            out,
            "# HELP bramble_http_requests_total Requests answered.\n# TYPE bramble_http_requests_total counter"
        );
        for ((method, route, status), (n, _)) in http.iter() {
            let _ = writeln!(
                out,
                "bramble_http_requests_total{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}} {n}"
            );
        }
        let name = "bramble_http_request_seconds_total";
        let _ = writeln!(out, "# HELP {name} Time until the head of the answer.\n# TYPE {name} counter");
        for ((method, route, status), (_, micros)) in http.iter() {
            let seconds = *micros as f64 / 1e6;
            let _ = writeln!(out, "{name}{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}} {seconds}");
        }
    }
}

/// A connection in words.
pub fn connection_word(connection: Connection) -> &'static str {
    match connection {
        Connection::Online => "online",
        Connection::Offline => "offline",
        Connection::Recovering => "recovering",
        Connection::Never => "never",
    }
}
