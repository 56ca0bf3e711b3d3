//! Brings up a fleet whose device is a virtual Pi: coordinator and broker on this machine, and a card with our image
//! that is flashed, seeded and given power, as a person does with a board. What the Pi is made of is `pi`'s matter.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;

use super::up::{
    Patience, alive_until, build, deploy, down_on_signal, free, known, private_dir, start_coordinator, step, tell,
    token_of, watch, write_env,
};
use super::{APP_PORT, DEVICE, Fleet, LABEL, Stay};
use crate::daemon::hold_starts;
use crate::pi::{self, Seed};
use crate::prepare::{self, Need};
use crate::run::Cmd;

/// From power-on to an enrolled device: a first boot grows volumes and makes keys, under emulation.
const ENROLLED: Duration = Duration::from_secs(900);
const PATIENCE: Patience =
    Patience { applied_word: "10m", applied: Duration::from_secs(660), answers: Duration::from_secs(120) };

/// Brings it up.
///
/// # Errors
/// With the step that failed, why, and what the programs and the Pi's console said last.
pub fn up(stay: Stay) -> anyhow::Result<()> {
    let result = bring_up(&Fleet::of_virtual_pi(), stay);
    if result.is_err() {
        drop(hold_starts());
    }
    result
}

fn bring_up(fleet: &Fleet, stay: Stay) -> anyhow::Result<()> {
    if !super::is_root() {
        return Err(super::again_as_root());
    }
    let signals = match stay {
        Stay::Foreground => Some(down_on_signal(fleet.clone())?),
        Stay::Detached => None,
    };
    prepare::packages(Need::Fleet)?;
    build()?;
    let nats = prepare::nats_server()?;
    private_dir(&fleet.dir)?;
    address(fleet)?;
    let place = fleet.pi();
    if place.daemon().running().is_none() {
        free(APP_PORT)?;
    }
    start_coordinator(fleet, &nats)?;
    write_env(fleet)?;
    step("Making the image, the card and its seed (the first time this takes some minutes)");
    private_dir(place.dir())?;
    pi::make(&place, || seed(fleet))?;
    pi::start(&place, &[(APP_PORT, APP_PORT)], &[fleet.api(), fleet.broker()])?;
    step(&format!("Waiting for {DEVICE} to boot and enrol (its console: cargo xtask pi serial)"));
    let online = || match known(fleet).map_err(|err| format!("{err:#}"))? {
        Some(connection) if connection == "online" => Ok(()),
        Some(connection) => Err(format!("it is {connection}")),
        None => Err(format!("it has not enrolled yet; its console: {}", place.last_words())),
    };
    alive_until(&[&place.daemon(), &fleet.coordinator()], &format!("{DEVICE} to be online"), ENROLLED, online)?;
    let answer = deploy(fleet, &place.daemon(), &PATIENCE)?;
    tell(fleet, &place.serial(), &answer, stay);
    match signals {
        Some(signals) => watch(fleet, &[fleet.coordinator(), place.daemon()], &signals),
        None => Ok(()),
    }
}

/// The address at which the guest sees this machine is this machine's own too, and leads nowhere else.
fn address(fleet: &Fleet) -> anyhow::Result<()> {
    let address = format!("{}/32", fleet.at);
    let added = Cmd::new("ip").args(["address", "replace", &address, "dev", "lo"]).check();
    added.with_context(|| format!("cannot give this machine the address {address}"))?;
    Ok(())
}

/// What stands on the new card: whose it is, a token for one device, and the key of `cargo xtask pi ssh`.
fn seed(fleet: &Fleet) -> anyhow::Result<Seed> {
    let args = ["enroll-token", "create", "--auto-approve", "--label", LABEL, "-o", "json"];
    let answer = fleet.bramble()?.args(args).check().context("cannot make an enrolment token")?;
    let key = pi::ssh_key(&fleet.pi())?;
    let key = fs::read_to_string(&key).with_context(|| format!("cannot read {}", key.display()))?;
    Ok(Seed { coordinator: fleet.url(), token: token_of(&answer)?.into(), hostname: DEVICE.into(), ssh_key: key })
}
