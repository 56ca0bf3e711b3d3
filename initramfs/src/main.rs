//! `bramble-bootguard`: called by the initramfs before root is mounted; facts in, one action out, both as JSON.
//!
//! Gathering the facts, merging and rebooting belong to the initramfs hook, which comes with operating system upgrades.
//! Facts that cannot be read are answered like a volume group that cannot be read: wait and reboot, never a shell.

use std::io::Read as _;
use std::process::ExitCode;

mod decide;

use decide::{Action, Facts, decide};

/// Facts are a few hundred bytes.
const FACTS_MAX: u64 = 64 * 1024;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let text = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["decide"] => {
            let mut text = String::new();
            std::io::stdin().take(FACTS_MAX).read_to_string(&mut text).map(|_| text).map_err(|err| err.to_string())
        }
        ["decide", "--facts", json] => Ok(json.to_owned()),
        ["version"] => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("usage: bramble-bootguard decide [--facts JSON]   (facts on standard input without --facts)");
            return ExitCode::from(2);
        }
    };
    let facts = text.and_then(|text| serde_json::from_str::<Facts>(&text).map_err(|err| err.to_string()));
    let action = match facts {
        Ok(facts) => decide(&facts),
        Err(why) => {
            eprintln!("bramble-bootguard: the facts of this boot cannot be read ({why}); waiting, then rebooting");
            Action::WaitAndReboot { secs: 600 }
        }
    };
    println!("{}", serde_json::to_string(&action).expect("invariant: an action is plain JSON"));
    ExitCode::SUCCESS
}
