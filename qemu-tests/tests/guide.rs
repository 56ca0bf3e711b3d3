//! docs/guide/os-upgrade.md, typed as it stands at a virtual Pi: a good upgrade, a bad one, and the retry once its packages are
//! mended. Only in full runs.
//!
//! Decides what has to be read after each command. The page's commands are taken from the page: one that changes there is
//! another one here.

use std::fs;
use std::time::Duration;

use bramble_contracts::v1::Status;
use bramble_contracts::v3::OsPhase;
use bramble_fleet_tests::wait_until;
use bramble_qemu_tests::harm::harm;
use bramble_qemu_tests::sample;
use bramble_qemu_tests::upgrade::{Lab, MARK, UPGRADE};
use xtask::paths;
use xtask::run::Output;

const PAGE: &str = "docs/guide/os-upgrade.md";

#[test]
fn the_guide_of_os_upgrades_works_as_typed() {
    if !sample::is_whole() {
        return;
    }
    let lab = Lab::new("os-guide");
    let page = fs::read_to_string(paths::checkout().join(PAGE)).unwrap();
    let (device, old) = (lab.device(), lab.inside());

    let good = lab.offer(|package, first| package.postinst(first));
    let change = format!("{MARK} {} → {good}", old.1);
    reads(&typed(&lab, &page, "bramble os plan "), 0, &[&change, "pi-1  upgrade"]);
    let (done, name) = upgraded(&lab, &page);
    reads(&done, 0, &["applying", "armed", "trial", "1 confirmed"]);
    let (slot, version) = lab.inside();
    assert_eq!((slot, &version), (old.0.other(), &good));
    let told = ["devices      1 (1 confirmed)"];
    reads(&typed(&lab, &page.replace("NAME", &name), "bramble describe rollout "), 0, &told);
    let parts = ["tryboot, booted slot", "os upgrade   confirmed, done 100 % (attempt 1)", &change, "down for"];
    reads(&typed(&lab, &page, "bramble describe device "), 0, &parts);

    lab.offer(|package, first| harm("panics-early").package(package, first));
    let (halted, name) = upgraded(&lab, &page);
    let why = "the new system did not come up";
    reads(&halted, 1, &["armed", "batch 1 failed on 1 of 1 devices (pi-1)", why]);
    assert_eq!(lab.inside(), (slot, version));
    let described = typed(&lab, &page.replace("NAME", &name), "bramble describe rollout ");
    reads(&described, 0, &["retry, promote or abort it", "rolled-back", why]);
    on_the_device(&lab, &page);

    let mended = lab.offer(|package, first| package.postinst(first));
    reads(&typed(&lab, &page.replace("NAME", &name), "bramble rollout retry "), 0, &[]);
    wait_until("the mended packages to be confirmed", UPGRADE, || match lab.os().and_then(|os| os.upgrade) {
        Some(upgrade) if (upgrade.status, upgrade.phase) == (Status::Confirmed, OsPhase::Done) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(lab.inside(), (slot.other(), mended));
    lab.member.answers();
    lab.outside();
    assert_eq!(lab.device(), device, "the same device");
}

/// The upgrade, and the rollout's name, which the operator reads.
fn upgraded(lab: &Lab, page: &str) -> (Output, String) {
    let output = typed(lab, page, "bramble os upgrade ");
    let words: Vec<&str> = output.stderr.split_whitespace().collect();
    let name = words.windows(2).find(|pair| pair[0] == "rollout").map(|pair| pair[1].trim_end_matches(':').to_owned());
    let name = name.unwrap_or_else(|| panic!("no rollout is named: {}", output.stderr));
    (output, name)
}

/// Types the page's command that begins like this.
fn typed(lab: &Lab, page: &str, begin: &str) -> Output {
    let command = page.split(['`', '\n']).find(|text| text.starts_with(begin)).map(str::trim);
    let command = command.unwrap_or_else(|| panic!("{PAGE} types nothing that begins with {begin:?}"));
    println!("$ {command}");
    let words = command.split_whitespace().skip(1);
    let cmd = lab.member.fleet.bramble().cmd().clone().args(words).within(UPGRADE + Duration::from_secs(60));
    let output = cmd.output().unwrap_or_else(|err| panic!("{command}: {err}"));
    println!("{}{}", output.stdout, output.stderr);
    output
}

fn reads(output: &Output, code: i32, parts: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{}{}", output.stdout, output.stderr);
    for part in parts {
        let is_read = output.stdout.contains(part) || output.stderr.contains(part);
        assert!(is_read, "nobody reads {part:?}: {}{}", output.stdout, output.stderr);
    }
}

/// What the page types on the device: each line of the block after that word.
fn on_the_device(lab: &Lab, page: &str) {
    let block = page.split("On the device:").nth(1).and_then(|rest| rest.split("```").nth(1)).unwrap_or_default();
    let commands = block.lines().filter_map(|line| line.split('#').next()).map(str::trim);
    let commands: Vec<&str> = commands.filter(|line| !line.is_empty()).collect();
    assert_eq!(commands.len(), 4, "{block}");
    let said: Vec<String> = commands.iter().map(|command| lab.member.pi.ok(command)).collect();
    let parts = ["bramble-os@apply", "\"is\": \"rolled-back\"", "\"reason\":\"didNotComeUp\"", "root  Vwi"];
    for ((command, said), part) in commands.iter().zip(&said).zip(parts) {
        println!("$ {command}\n{said}");
        assert!(said.contains(part), "{command}: {part:?} is not in {said}");
    }
}
