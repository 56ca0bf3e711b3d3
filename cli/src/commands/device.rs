//! `device`: labels, approval, and the cut-off of a device and its way back.

use bramble_contracts::api::{Because, Connection, DeviceView, LabelChange};
use reqwest::Method;

use super::{
    Session, ask,
    views::{labels, word},
};
use crate::{
    args::{Device, LabelEdit},
    exit::{Exit, Failure},
    output::{Printed, say},
};

/// Changes devices.
pub(super) async fn device(s: &Session, args: Device) -> Result<Exit, Failure> {
    match args {
        Device::Label { name, labels } => label(s, &name, labels).await,
        Device::Approve { names, reason } => {
            for name in &names {
                act(s, name, "approve", &reason, "approved").await?;
            }
            Ok(Exit::Done)
        }
        Device::Quarantine { name, reason, yes } => {
            if reason.trim().is_empty() {
                return Err(Failure::Usage(
                    "--reason may not be empty: whoever finds the device cut off will want to know".into(),
                ));
            }
            let view: DeviceView = s.client.get(&["devices", &name], &vec![]).await?;
            ask::confirm(&dialogue(&view, &reason), yes.into())?;
            act(s, &name, "quarantine", &reason, "quarantined: its connection is cut").await
        }
        Device::Unquarantine { name, reason } => {
            act(s, &name, "unquarantine", &reason, "may connect again; it comes back by itself").await
        }
    }
}

async fn act(s: &Session, name: &str, verb: &str, reason: &str, done: &str) -> Result<Exit, Failure> {
    let because = Because { reason: reason.to_owned() };
    let view: DeviceView = s.client.write(Method::POST, &["devices", name, verb], &vec![], Some(&because)).await?;
    if s.format.print_next(&view)? == Printed::No {
        say(&format!("device/{} {done} (state {})\n", view.name, word(&view.state)))?;
    }
    Ok(Exit::Done)
}

async fn label(s: &Session, name: &str, edits: Vec<LabelEdit>) -> Result<Exit, Failure> {
    let mut change = LabelChange::default();
    for edit in edits {
        match edit {
            LabelEdit::Set(key, value) => drop(change.set.insert(key, value)),
            LabelEdit::Remove(key) => change.remove.push(key),
        }
    }
    if let Some(both) = change.remove.iter().find(|k| change.set.contains_key(k)) {
        return Err(Failure::Usage(format!("label {both} is both set and removed: which one is meant?")));
    }
    let view: DeviceView = s.client.write(Method::PATCH, &["devices", name, "labels"], &vec![], Some(&change)).await?;
    if s.format.print(&view)? == Printed::No {
        say(&format!("device/{} has labels {}\n", view.name, labels(&view.labels)))?;
    }
    Ok(Exit::Done)
}

/// Exactly what happens, and when.
fn dialogue(d: &DeviceView, reason: &str) -> String {
    let now = match (&d.quarantine, d.connection) {
        (Some(_), _) => "nothing: it is quarantined already",
        (None, Connection::Online) => "its connection to the fleet is cut at once, within a second",
        (None, Connection::Offline | Connection::Recovering | Connection::Never) => {
            "it is not connected; from this moment it cannot connect any more"
        }
    };
    format!(
        "Quarantine device {name} ({id}, tenant {tenant})?\n\
         \x20 now       {now}\n\
         \x20 stays     it is refused until you let it back: also after a restart of the device, the coordinator or the broker\n\
         \x20 apps      what runs on it keeps running, and starts again after a reboot, as it was last told;\n\
         \x20           changes and deletions do not reach it, and nothing of it is seen: no status, no logs, no exec\n\
         \x20 reason    {reason:?} goes to the audit trail, with your name\n\
         \x20 way back  `bramble device unquarantine {name}`: it connects again by itself and catches up with what changed",
        name = d.name,
        id = d.id,
        tenant = d.tenant,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dialogue_says_what_happens_and_when() {
        let view = |connection: &str| -> DeviceView {
            serde_json::from_value(serde_json::json!({
                "id": "d-aaaaaaaaaaaaaaaaaaaa", "tenant": "default", "name": "pi-1", "labels": {}, "state": "active",
                "connection": connection, "lastSeen": null, "created": "", "health": "healthy", "desiredGeneration": 1,
                "reportedGeneration": 1, "hold": null, "quarantine": null, "report": null, "version": 1,
            }))
            .unwrap()
        };
        let text = dialogue(&view("online"), "stolen");
        for part in [
            "pi-1 (d-aaaaaaaaaaaaaaaaaaaa, tenant default)",
            "cut at once",
            "keeps running",
            "\"stolen\"",
            "bramble device unquarantine pi-1",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(dialogue(&view("offline"), "x").contains("it is not connected; from this moment it cannot connect"));
    }
}
