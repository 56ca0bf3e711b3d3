//! How long the agent's own upgrade takes, as an operator waits for it; how long nobody manages the device meanwhile, and for
//! how long its app is away.

use std::time::Duration;

use bramble_contracts::v1::Status;

use super::Reps;
use super::poll::{Poller, answered};
use super::table::{Goal, Row, Samples, Unit};
use crate::release::Publisher;
use crate::{Fleet, Watch, manifest, wait_until};

pub(super) fn replaced(reps: Reps) -> Vec<Row> {
    let fleet = Fleet::start("bench-agent");
    let pi = fleet.supervised("pi-1");
    let port = fleet.port();
    fleet.apply(&manifest::hello("web", port, 1));
    drop(fleet.settled("web", &pi));
    answered(port);
    let publisher = Publisher::new(&fleet);
    let (mut took, mut unmanaged, mut silent, mut bytes) = (vec![], vec![], vec![], 0);
    // Versions are stamped over each other, so they are of one length.
    for n in 1..=reps.fewer(3).min(9) {
        let version = format!("0.2.{n}");
        publisher.publish(&fleet, &version, &publisher.agent(&version));
        let poller = Poller::start(port);
        poller.saw_answers(10);
        let watch = Watch::start();
        let words = ["agent", "upgrade", "--to", &version, "--batches", "100%", "--healthy-for", "1s"];
        fleet.bramble().ok(&words);
        let end = wait_until("the new agent to be confirmed", Duration::from_secs(120), || {
            let report = fleet.device_view("pi-1")?.report.ok_or("no report")?;
            let upgrade = report.program.upgrade.ok_or("no upgrade")?;
            let is_it = upgrade.version.to_string() == version && upgrade.status == Status::Confirmed;
            if is_it { Ok(upgrade) } else { Err(format!("{upgrade:?}")) }
        });
        took.push(watch.elapsed());
        poller.saw_answers(10);
        silent.push(poller.longest_silence());
        let millis = end.unmanaged_ms.expect("both agents lived in one boot");
        unmanaged.push(Duration::from_millis(millis));
        bytes = end.bytes_all;
        wait_until("the old agent to end", Duration::from_secs(60), || match pi.statuses().len() {
            1 => Ok(()),
            n => Err(format!("{n} agents")),
        });
    }
    vec![
        Row::new("`agent upgrade` as typed → the new agent is confirmed", Samples::times(took)),
        Row::new("  of it: the old agent has let go → the new one acts", Samples::times(unmanaged))
            .goal(Goal::Every(2000.0)),
        Row::new("  an app's longest silence meanwhile", Samples::times(silent)).goal(Goal::Every(100.0)),
        Row::new("  bytes of the binary", Samples::one(Unit::MiB, bytes as f64 / f64::from(1 << 20))),
    ]
}
