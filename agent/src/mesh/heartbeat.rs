//! The heartbeat: at most 40 bytes every few seconds, and at once when a connection comes up.
//!
//! Decides nothing: it says what the board says.

use std::sync::Arc;

use bramble_contracts::envelope;
use bramble_contracts::subjects::{Bucket, liveness_key};
use bramble_contracts::v1::Heartbeat;
use bramble_contracts::v3::NEWEST_DOCUMENT;
use tokio::sync::watch;

use super::connection::Link;
use super::context::{Context, Stop};
use super::duty::OnDuty;
use super::identity::millis;
use super::judge::generation_of;
use super::{health, random};
use crate::host::clock;
use crate::version;

pub(crate) async fn run(context: Arc<Context>, on_duty: OnDuty, mut link: watch::Receiver<Link>, mut stop: Stop) {
    let mut seq = 0;
    let mut epoch = 0;
    let subject = Bucket::Liveness.subject(&liveness_key(&context.device, context.settings.instance));
    let every = context.settings.heartbeat;
    loop {
        let now = link.borrow_and_update().clone();
        if let (Some(client), true) = (now.client, now.connected) {
            epoch = now.epoch;
            let beat = beat(&context, &on_duty, seq);
            seq = seq.wrapping_add(1);
            let bytes = envelope::encode(&beat).expect("invariant: a heartbeat is far below its limit");
            if let Err(err) = client.publish(subject.clone(), bytes.into()).await {
                tracing::debug!(%err, "heartbeat not sent");
            }
        }
        // Between 90 and 100 % of the period, so that a fleet does not beat as one.
        let pause = every - every / 5 + random::jittered(every / 5);
        let wake = async { while link.changed().await.is_ok() && link.borrow().epoch == epoch {} };
        tokio::select! {
            () = stop.asked() => return,
            () = tokio::time::sleep(pause) => {}
            () = wake => {}
        }
    }
}

fn beat(context: &Context, on_duty: &OnDuty, seq: u32) -> Heartbeat {
    let view = context.board.view();
    let reports = on_duty.duty().map(|duty| duty.supervisor.reports().borrow().clone()).unwrap_or_default();
    Heartbeat {
        session: context.session,
        instance: context.settings.instance,
        seq,
        uptime_ms: millis(clock::uptime()),
        generation: generation_of(view.desired.as_deref()),
        version: version::number(),
        newest_document: NEWEST_DOCUMENT,
        health: health::judge(view.desired.as_deref(), &reports, &view.clock),
    }
}

#[cfg(test)]
mod tests {
    use bramble_contracts::Generation;
    use bramble_contracts::bytes::Fixed;
    use bramble_contracts::v1::{AgentVersion, Health, Instance};

    use super::*;

    #[test]
    fn a_heartbeat_of_an_old_busy_device_fits_in_forty_bytes() {
        let century = 100 * 365 * 86_400_000;
        let beat = Heartbeat {
            session: Fixed([0xff; 8]),
            instance: Instance::B,
            seq: u32::MAX,
            uptime_ms: century,
            generation: Generation(u64::from(u32::MAX)),
            version: AgentVersion { major: 99, minor: 999, patch: 9999 },
            newest_document: u8::MAX,
            health: Health::Degraded,
        };
        let bytes = envelope::encode(&beat).unwrap();
        assert!(bytes.len() <= 40, "{} bytes", bytes.len());
    }
}
