//! `bramble-bootguard`: called by the initramfs before root is mounted.
//!
//! `boot` looks, decides, does, and comes back only where this boot is to go on; `handover` leaves word for systemd once root
//! is mounted; `panic` is where a boot ends that cannot go on. `decide` shows the decision for facts that it is given: those
//! that cannot be read are answered like a volume group that cannot be read. Never a shell.

use std::io::Read as _;
use std::process::ExitCode;

use bramble_initramfs::decide::{Action, Facts, decide};
use bramble_initramfs::host::Machine;
use bramble_initramfs::{boot, facts};

/// Facts are a few hundred bytes.
const FACTS_MAX: u64 = 64 * 1024;
const USAGE: &str = "usage: bramble-bootguard boot | handover | panic REASON | version | decide [--facts JSON]\n\
                     decide takes facts on standard input without --facts";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["boot"] => guarded(|machine| {
            if let Err(why) = machine.lets_no_panic_stay() {
                // Where even this fails there is nobody to tell.
                let _told = machine.say(&why);
            }
            boot::boot(machine).map(|ended| match ended {
                boot::Ended::GoesOn | boot::Ended::Reboots => {}
            })
        }),
        ["handover"] => guarded(|machine| machine.hand_over()),
        ["panic", why] => Machine::this().panic(why),
        ["panic"] => Machine::this().panic("the initramfs does not say why"),
        ["version"] => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        ["decide"] => shown(stdin()),
        ["decide", "--facts", json] => shown(Ok(json.to_owned())),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("bramble-bootguard: {why}");
            ExitCode::FAILURE
        }
    }
}

/// On a machine whose root is not on our volumes there is nothing to guard, and no watchdog that somebody would feed.
fn guarded(act: impl FnOnce(&mut Machine) -> Result<(), String>) -> Result<(), String> {
    let mut machine = Machine::this();
    if facts::root_is_ours(&machine.cmdline()) { act(&mut machine) } else { Ok(()) }
}

fn stdin() -> Result<String, String> {
    let mut text = String::new();
    std::io::stdin().take(FACTS_MAX).read_to_string(&mut text).map(|_| text).map_err(|err| err.to_string())
}

fn shown(text: Result<String, String>) -> Result<(), String> {
    let facts = text.and_then(|text| serde_json::from_str::<Facts>(&text).map_err(|err| err.to_string()));
    let action = facts.map(|facts| decide(&facts)).unwrap_or_else(|why| {
        eprintln!("bramble-bootguard: the facts of this boot cannot be read ({why}); waiting, then rebooting");
        Action::WaitAndReboot { secs: 600 }
    });
    println!("{}", serde_json::to_string(&action).expect("invariant: an action is plain JSON"));
    Ok(())
}
