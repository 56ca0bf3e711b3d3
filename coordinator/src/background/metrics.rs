//! Numbers for people and Prometheus.
//!
//! Decides: names, and that nothing a stranger sends becomes a name: methods and routes come from closed lists.
//! Deliberately does not: judge.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bramble_contracts::api::{Connection, DeviceState, RolloutState};
use bramble_contracts::v2::ClockVerdict;
use bytes::Bytes;

use super::index::Index;
use crate::domain::{lifecycle, view::Lens};

/// The text is made anew at most this often: whoever asks needs no token, and each making walks the whole fleet.
const FRESH_MS: u64 = 1000;

/// Method, route and status.
type Answered = (&'static str, String, u16);
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
    /// Looks at every record for quarantine.
    pub quarantine_looks: AtomicU64,
    http: Mutex<BTreeMap<Answered, Sum>>,
    made: Mutex<Option<(u64, Bytes)>>,
}

/// A method by a name of ours: a client may send any word.
fn method_name(method: &str) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    known.into_iter().find(|name| *name == method).unwrap_or("other")
}

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Metrics {
    /// An HTTP request was answered. `route`: the template that matched; none when none did.
    pub fn http(&self, method: &str, route: Option<&str>, status: u16, micros: u64) {
        let mut http = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = http.entry((method_name(method), route.unwrap_or("-").to_owned(), status)).or_default();
        entry.0 += 1;
        entry.1 += micros;
    }

    /// Everything as Prometheus text, a second old at most. Whoever asks at the same time gets the same.
    pub fn recent(&self, index: &Index, mono_ms: u64) -> Bytes {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, text)) = &*made
            && mono_ms.saturating_sub(*at) < FRESH_MS
        {
            return text.clone();
        }
        let text = Bytes::from(index.look(|lens| self.text(lens)));
        *made = Some((mono_ms, text.clone()));
        text
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
        counter("bramble_quarantine_looks_total", "Looks at all records for quarantine.", get(&self.quarantine_looks));
        self.gauges(lens, &mut out);
        self.http_text(&mut out);
        out
    }

    fn gauges(&self, lens: &Lens<'_>, out: &mut String) {
        let mut devices: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        let mut clocks: BTreeMap<&str, u64> = BTreeMap::new();
        let mut held = 0;
        for id in lens.fleet.device_ids() {
            let state = lens.fleet.device(&id).record().map_or(DeviceState::Active, |r| r.state);
            *devices.entry((lifecycle::word(state), connection_word(lens.connection(&id)))).or_default() += 1;
            held += u64::from(lens.hold(&id).is_some());
            *clocks
                .entry(clock_word(lens.clock(&id).map_or(ClockVerdict::Unknown, |clock| clock.verdict)))
                .or_default() += 1;
        }
        let _ = writeln!(out, "# HELP bramble_devices Devices by state and connection.\n# TYPE bramble_devices gauge");
        for ((state, connection), n) in devices {
            let _ = writeln!(out, "bramble_devices{{state=\"{state}\",connection=\"{connection}\"}} {n}");
        }
        let _ = writeln!(out, "# HELP bramble_devices_clock Devices by what their wall clock is worth.");
        let _ = writeln!(out, "# TYPE bramble_devices_clock gauge");
        for (verdict, n) in clocks {
            let _ = writeln!(out, "bramble_devices_clock{{verdict=\"{verdict}\"}} {n}");
        }
        let mut gauge = |name: &str, help: &str, value: u64| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
        };
        gauge("bramble_devices_on_hold", "Devices on hold.", held);
        gauge("bramble_deployments", "Deployments.", lens.fleet.deployments.iter().count() as u64);
        let rollouts = || lens.fleet.rollouts.readable().map(|(_, _, rollout)| rollout);
        let live = rollouts().filter(|r| r.is_live()).count() as u64;
        gauge("bramble_rollouts_under_way", "Rollouts that are not over.", live);
        let halted = rollouts().filter(|r| r.state == RolloutState::Halted).count() as u64;
        gauge("bramble_rollouts_halted", "Rollouts that failed and wait for an operator.", halted);
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

fn clock_word(verdict: ClockVerdict) -> &'static str {
    match verdict {
        ClockVerdict::Unknown => "unknown",
        ClockVerdict::Fit => "fit",
        ClockVerdict::Skewed => "skewed",
        ClockVerdict::Disputed => "disputed",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_make_no_names() {
        let metrics = Metrics::default();
        for n in 0..1000 {
            metrics.http(&format!("M{n}"), None, 404, 1);
            metrics.http("GET", None, 404, 1);
        }
        let mut text = String::new();
        metrics.http_text(&mut text);
        assert_eq!(metrics.http.lock().unwrap().len(), 2);
        assert!(text.contains("{method=\"other\",route=\"-\",status=\"404\"} 1000"), "{text}");
    }

    #[test]
    fn the_text_is_made_once_a_second() {
        let index = Index::new(crate::domain::testing::trust().0, std::time::Duration::from_secs(1));
        let metrics = Metrics::default();
        let first = metrics.recent(&index, 5);
        count(&metrics.written);
        assert_eq!(metrics.recent(&index, 5 + FRESH_MS - 1), first);
        assert_ne!(metrics.recent(&index, 5 + FRESH_MS), first);
    }
}
