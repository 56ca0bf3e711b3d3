//! Runs the stories in `tests/scenarios/*.txt` on a simulated device. `BLESS=1` writes what happened into the files.
#![allow(clippy::unwrap_used, reason = "tests")]

mod simulated;

use std::path::PathBuf;
use std::time::Duration;

use bramble_agent::core::disk::Disk;
use bramble_agent::sim::{Behaviour, Link};
use bramble_contracts::quantity::Millis;
use bramble_contracts::v2::Stage;
use simulated::{Agent, app_of, parse_app};

#[tokio::test(start_paused = true)]
async fn every_scenario_goes_as_written() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "the scenarios are there");
    let mut wrong = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let played = play(&text).await;
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&file, &played).unwrap();
        } else if played != text {
            wrong.push(format!("{}\n--- written\n{text}--- happened\n{played}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The commands and comments of a story, each followed by what happened.
async fn play(text: &str) -> String {
    let mut agent = Agent::new();
    let mut out = String::new();
    for line in text.lines().filter(|line| !line.starts_with("  ")) {
        out.push_str(line);
        out.push('\n');
        let Some(command) = line.strip_prefix("> ") else { continue };
        let words: Vec<&str> = command.split(' ').collect();
        for said in obey(&mut agent, &words).await {
            out.push_str(&format!("  {said}\n"));
        }
    }
    out
}

/// Every command but `look`, `stages` and `wait` lets one second pass.
async fn obey(agent: &mut Agent, words: &[&str]) -> Vec<String> {
    match words {
        ["look"] => return look(agent),
        ["stages"] => return stages(agent),
        ["wait", time] => {
            tokio::time::sleep(time.parse::<Millis>().unwrap().duration()).await;
            return done(agent);
        }
        ["want", app @ ..] => agent.want(parse_app(app)),
        ["unwant", name] => agent.unwant(name),
        ["end", name, code] => agent.host.end(name, code.parse().unwrap()),
        ["vanish", name] => agent.host.vanish(name),
        ["reboot"] => agent.reboot().await,
        ["restart-agent"] => agent.restart().await,
        ["runs", image] => agent.host.set_behaviour(image, Behaviour::Runs),
        ["stubborn", image] => agent.host.set_behaviour(image, Behaviour::Stubborn),
        ["unstartable", image] => agent.host.set_behaviour(image, Behaviour::Unstartable),
        ["ends", image, code, after] => {
            let (code, after) = (code.parse().unwrap(), after.parse::<Millis>().unwrap().duration());
            agent.host.set_behaviour(image, Behaviour::Ends { code, after });
        }
        ["sicken", image] => agent.host.sicken(image),
        ["heal", image] => agent.host.heal(image),
        ["warms", image, time] => agent.host.set_warm_up(image, time.parse::<Millis>().unwrap().duration()),
        ["want-all", rest @ ..] => {
            agent.want_all(rest.split(|word| *word == "+").map(parse_app).collect());
        }
        ["podman", "down"] => agent.host.set_podman(Link::Down),
        ["podman", "up"] => agent.host.set_podman(Link::Up),
        ["nft", "down"] => agent.host.set_nft(Link::Down),
        ["nft", "up"] => agent.host.set_nft(Link::Up),
        ["flush-tables"] => agent.host.flush_tables(),
        ["drain", time] => agent.host.set_drain(time.parse::<Millis>().unwrap().duration()),
        ["registry", "down"] => agent.host.set_registry(Link::Down, Duration::ZERO),
        ["registry", "up", time] => agent.host.set_registry(Link::Up, time.parse::<Millis>().unwrap().duration()),
        ["images", images @ ..] => {
            let at = images.iter().position(|word| *word == "registry").unwrap_or(images.len());
            agent.host.set_images(&images[..at], images.get(at + 1..).unwrap_or_default());
        }
        ["damage", "container", name] => agent.host.damage_container(name),
        ["damage", "image", image] => agent.host.damage_image(image),
        ["damage", "files", image] => agent.host.hollow_image(image),
        ["room", free_mib, total_mib, image, need_mib] => {
            let bytes = |mib: &str| mib.parse::<u64>().unwrap() << 20;
            agent.host.set_room(Disk { free: bytes(free_mib), total: bytes(total_mib) }, image, bytes(need_mib));
        }
        ["stranger", container, app @ ..] => agent.host.plant_stranger(&app_of(&parse_app(app)), container),
        ["no-strangers"] => agent.host.remove_strangers(),
        other => panic!("unknown command {other:?}"),
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    done(agent)
}

/// The pipeline of every app, with times in virtual milliseconds.
fn stages(agent: &Agent) -> Vec<String> {
    let one = |stage: &Stage| {
        let took = stage.took_ms.map(|ms| format!(" {ms}ms")).unwrap_or_default();
        let detail = if stage.detail.is_empty() { String::new() } else { format!(" ({})", stage.detail) };
        let state = format!("{:?} {:?}", stage.name, stage.state).to_lowercase();
        format!("{state}{took}{detail}")
    };
    let reports = agent.reports();
    let apps = reports.iter().map(|r| {
        let stages: Vec<String> = r.stages.iter().map(one).collect();
        format!("{} {}: {}", r.deployment, r.revision, stages.join(", "))
    });
    apps.collect()
}

/// What was done, without the bookkeeping.
fn done(agent: &Agent) -> Vec<String> {
    let effects = agent.host.take_effects();
    effects.into_iter().filter(|text| !text.starts_with("save ") && !text.starts_with("erase ")).collect()
}

fn look(agent: &Agent) -> Vec<String> {
    let reports = agent.reports();
    let apps = reports.iter().map(|r| {
        let runs = r.running_revision.map_or("nothing runs".to_owned(), |v| format!("runs {v}"));
        let reason = if r.reason.is_empty() { String::new() } else { format!(": {}", r.reason) };
        format!("{} {}: {:?} {:?}, {runs}{reason}", r.deployment, r.revision, r.status, r.phase)
    });
    let ports = agent.host.mappings().into_iter().map(|mapping| format!("ports: {mapping}"));
    let alarms = agent.alarms();
    let mut said: Vec<String> = apps.chain(ports).chain(alarms.iter().map(|alarm| format!("alarm: {alarm}"))).collect();
    if said.is_empty() {
        said.push("no apps".to_owned());
    }
    said
}
