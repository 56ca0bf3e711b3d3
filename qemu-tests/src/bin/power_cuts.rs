//! `bramble-power-cuts`: what `cargo xtask power-cuts` starts: records upgrades of one virtual Pi, cuts the power in them,
//! and adds a row for each cut. Decides which cut is of which upgrade, and goes on after the rows that are there.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bramble_fleet_tests::Watch;
use bramble_fleet_tests::clock::Dice;
use bramble_qemu_tests::campaign::cut::{Cut, choose, kept};
use bramble_qemu_tests::campaign::rows::{self, Row};
use bramble_qemu_tests::campaign::{Ending, Kept, Recording, Upgrade, record, survive};
use bramble_qemu_tests::card::CardFile;
use bramble_qemu_tests::upgrade::Lab;
use clap::Parser;
use xtask::paths;

/// Cuts the power of a virtual Pi that upgrades its operating system.
#[derive(Parser)]
#[command(name = "bramble-power-cuts")]
struct Args {
    /// Cuts of the whole campaign, those with rows already among them.
    #[arg(long)]
    count: u64,
    /// Which campaign: the same choices for the same seed. Where in time the writes are, no seed decides.
    #[arg(long)]
    seed: u64,
    /// Begin no cut after so many minutes; the next call goes on.
    #[arg(long)]
    minutes: Option<u64>,
    /// The tree that is tested.
    #[arg(long)]
    commit: String,
    /// Where the rows are.
    #[arg(long)]
    rows: PathBuf,
    /// The page that sums them up.
    #[arg(long)]
    page: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("error: {failed} cut(s) left a device that is not as it must be");
            ExitCode::FAILURE
        }
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

/// Of four cuts two are in a good upgrade.
fn upgrade(number: u64) -> Upgrade {
    match number % 4 {
        0 | 1 => Upgrade::Good,
        2 => Upgrade::Mute,
        _ => Upgrade::Panics,
    }
}

fn run(args: &Args) -> anyhow::Result<usize> {
    let done: BTreeSet<u64> =
        rows::read(&args.rows)?.iter().filter(|row| row.seed == args.seed).map(|row| row.number).collect();
    let left: Vec<u64> = (1..=args.count).filter(|number| !done.contains(number)).collect();
    println!("{} of {} cuts are left", left.len(), args.count);
    if !left.is_empty() {
        let watch = Watch::start();
        let lab = Lab::new("power-cuts");
        lab.member.pi.switch_off();
        let limit = args.minutes.map(|minutes| Duration::from_secs(minutes * 60));
        let in_time = || limit.is_none_or(|limit| watch.elapsed() < limit);
        // Newer packages must not be offered before their turn.
        for upgrade_now in Upgrade::ALL {
            let of_it: Vec<u64> = left.iter().copied().filter(|number| upgrade(*number) == upgrade_now).collect();
            // Each has its share of the time that is left.
            let others = Upgrade::ALL.iter().filter(|other| **other > upgrade_now).count();
            let part = limit.map(|limit| {
                watch.elapsed() + limit.saturating_sub(watch.elapsed()) / u32::try_from(others + 1).unwrap_or(1)
            });
            if !of_it.is_empty() && in_time() {
                let on = || part.is_none_or(|part| watch.elapsed() < part);
                cuts(args, &lab, upgrade_now, &of_it, &on)?;
            }
        }
    }
    let rows = rows::read(&args.rows)?;
    rows::publish(&args.page, &rows)?;
    Ok(rows.iter().filter(|row| row.seed == args.seed && row.end == Row::FAILED).count())
}

fn cuts(args: &Args, lab: &Lab, upgrade: Upgrade, numbers: &[u64], on: &dyn Fn() -> bool) -> anyhow::Result<()> {
    let (recording, story) = record(lab, upgrade)?;
    let took = story.took.as_secs_f64();
    println!("── {}: {took:.0} s, {:?} ms down; {}", upgrade.name(), story.end.down_ms, recording.told());
    println!("   {} MiB written to the card, a boot before it included", recording.tape.written() >> 20);
    for number in numbers {
        if !on() {
            break;
        }
        let mut dice = Dice::new(args.seed.wrapping_mul(1_000_003).wrapping_add(*number));
        let cut = choose(&recording.stretches, &mut dice);
        println!("── cut {number}: {} in {}, entry {}, lost: {}", upgrade.name(), cut.phase, cut.at, cut.loss);
        let kept = kept(&recording.tape.entries, &cut, &mut dice);
        let ending = survive(lab, &recording, &cut, &kept);
        if ending.is_err() {
            keep(lab, &recording, &kept, &format!("{}-{number}", args.seed))?;
        }
        let row = row(args, *number, upgrade, &recording, &cut, &ending);
        println!("   {} after {} s, {} boot(s): {}", row.end, row.serving, row.boots, row.said);
        rows::append(&args.rows, &row)?;
    }
    lab.member.pi.cut_power();
    Ok(())
}

fn row(
    args: &Args,
    number: u64,
    upgrade: Upgrade,
    recording: &Recording,
    cut: &Cut,
    ending: &anyhow::Result<Ending>,
) -> Row {
    let (end, boots, serving, said) = match ending {
        Ok(ending) => {
            let end = if ending.is_old() { "old" } else { "new" };
            (end, ending.boots, ending.serving.as_secs(), ending.reason.clone())
        }
        Err(err) => (Row::FAILED, 0, 0, format!("{err:#}")),
    };
    Row {
        commit: args.commit.clone(),
        seed: args.seed,
        number,
        upgrade: upgrade.name().into(),
        phase: cut.phase.to_string(),
        at: cut.at,
        of: recording.tape.entries.len(),
        loss: cut.loss.to_string(),
        end: end.into(),
        boots,
        serving,
        said,
    }
}

/// What is needed to look at a failure: the card as it was cut, as it ended, and the serial line.
fn keep(lab: &Lab, recording: &Recording, kept: &[Kept], name: &str) -> anyhow::Result<()> {
    let dir = paths::target().join("power-cuts").join(name);
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let pi = &lab.member.pi;
    pi.cut_power();
    CardFile::flash(pi.card().path(), &dir.join("ended.img"), 0)?;
    std::fs::copy(pi.case().logs().join("pi-1.serial.log"), dir.join("serial.log"))
        .context("cannot keep the serial line")?;
    recording.rewind(&dir.join("cut.img"), kept)?;
    println!("   kept in {}", dir.display());
    Ok(())
}
