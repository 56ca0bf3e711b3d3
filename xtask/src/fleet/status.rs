//! Says what of the local fleet runs, by asking the processes and the ports, not by memory.

use super::{DEVICE, Fleet, app, short};
use crate::daemon::Daemon;
use crate::http;

/// Prints it, and says whether everything is up.
#[must_use]
pub fn status() -> bool {
    let fleet = Fleet::here();
    let ready = http::get(fleet.api(), "/ready");
    let answer = http::get(app(), "/");
    let lines = [
        line("coordinator", &fleet.coordinator(), &fleet.url(), ready.is_ok_and(|a| a.status == 200)),
        line(&format!("agent {DEVICE}"), &fleet.agent(), "", true),
    ];
    for (text, _) in &lines {
        println!("{text}");
    }
    let app_up = match answer {
        Ok(answer) if answer.status == 200 => {
            println!("{:<14} answers    http://{}  {}", "app hello", app(), answer.body.trim());
            true
        }
        Ok(_) | Err(_) => {
            println!("{:<14} no answer  http://{}", "app hello", app());
            false
        }
    };
    let up = app_up && lines.iter().all(|(_, up)| *up);
    if !up {
        println!("Bring it up with `cargo xtask up`; its data is in {}.", short(&fleet.dir));
    }
    up
}

fn line(name: &str, daemon: &Daemon, address: &str, ready: bool) -> (String, bool) {
    let (state, pid) = match (daemon.running(), ready) {
        (Some(record), true) => ("running", format!("pid {}", record.pid)),
        (Some(record), false) => ("not ready", format!("pid {}", record.pid)),
        (None, true | false) => ("stopped", String::new()),
    };
    let text = format!("{name:<14} {state:<10} {address} {pid}");
    (text.trim_end().into(), state == "running")
}
