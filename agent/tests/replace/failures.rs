//! Releases that are no good, and everything else that can go wrong: it ends in one of the two versions, and the app answers.

use std::time::Duration;

use bramble_contracts::bytes::Sha256;
use bramble_contracts::release::Artifact;
use bramble_contracts::v1::{Instance, RefusalKind, Status};
use bramble_contracts::v2::{AgentWish, UpgradePhase, UpgradeWord};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::eventually;
use crate::site::{Site, agent_of, version};

/// Does as the confirmed agent does when it is to test itself, and this when it is to run.
fn only_tests_itself(otherwise: &str) -> Vec<u8> {
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = self-test ]; then exec \"$(dirname \"$0\")/confirmed\" \"$@\"; fi\n{otherwise}\n"
    );
    script.into_bytes()
}

fn shoot(pid: i32) {
    // It may have ended by itself.
    kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
}

impl Site {
    fn process(&self, instance: Instance) -> i32 {
        self.agents().into_iter().find(|(one, _)| *one == instance).unwrap().1
    }

    /// Wishes something that comes to nothing; answers why.
    async fn fails(&self, wish: &AgentWish, status: Status) -> String {
        self.want(Some(wish)).await;
        let over = self
            .upgrade("it to fail", |_, upgrade| {
                upgrade.manifest == wish.manifest && upgrade.attempt == wish.attempt && upgrade.status == status
            })
            .await;
        assert_eq!((over.agent, over.instance), (version(0), Instance::A), "the old one acts");
        assert_eq!((self.link("current"), self.link("confirmed")), (version(0).to_string(), version(0).to_string()));
        over.program.upgrade.unwrap().reason
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_good_is_refused_until_somebody_retries_it() {
    let mut site = Site::start("SOURCE\nstart_secs = 5\nretry_secs = 1").await;
    // It cannot even be executed.
    let rubbish = site.publish(1, 1, b"no program at all".to_vec());
    let why = site.fails(&rubbish, Status::Failed).await;
    assert!(why.contains("does not start"), "{why}");
    // It ends with an error whatever it is told.
    let broken = site.publish(1, 2, b"#!/bin/sh\necho it is broken >&2\nexit 1\n".to_vec());
    let why = site.fails(&broken, Status::Failed).await;
    assert!(why.contains("it is broken"), "{why}");
    let blamed = site.report().await.unwrap().program.upgrade.unwrap().blamed;
    assert!(blamed, "and it is refused from now on");
    // It tests itself and then crashes: once it may have been killed, three times it is to blame.
    let crashes = site.publish(1, 3, only_tests_itself("exit 3"));
    let why = site.fails(&crashes, Status::RolledBack).await;
    assert!(why.contains("before it was ready"), "{why}");
    site.upgrade("it to be blamed", |_, upgrade| upgrade.blamed && upgrade.manifest == crashes.manifest).await;
    // Its binary is not what the manifest says.
    let good = agent_of(version(1));
    let artifact = Artifact { target: bramble_agent::version::target(), size: 8, sha256: Sha256::of(b"expected") };
    let exchanged = {
        let mut state = site.coordinator.state();
        state.releases.blobs.insert(artifact.sha256, b"somebody".to_vec());
        state.releases.announce(version(1), 4, artifact)
    };
    let why = site.fails(&exchanged, Status::Failed).await;
    assert!(why.contains("digest"), "{why}");
    // The other one still works, at the same version.
    let hand = site.coordinate();
    let wish = site.publish(1, 5, good);
    site.want(Some(&wish)).await;
    site.settles(1).await;
    drop(hand);
    println!("the app answered {} times", site.every_answer().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_that_hangs_or_is_not_confirmed_goes_back() {
    let mut site = Site::start("SOURCE\nstart_secs = 5\ntrial_secs = 8\nretry_secs = 600").await;
    let hangs = site.publish(1, 1, only_tests_itself("exec sleep 1000"));
    let why = site.fails(&hangs, Status::RolledBack).await;
    assert!(why.contains("not ready within 5 s"), "{why}");
    eventually("the hung one to be gone", || async { site.agents().len() == 1 }).await;
    // Nobody says a word to this one.
    let silent = site.publish(1, 2, agent_of(version(1)));
    let why = site.fails(&silent, Status::RolledBack).await;
    assert!(why.contains("8 s"), "{why}");
    eventually("the unconfirmed one to be gone", || async { site.agents().len() == 1 }).await;
    // This one is given up by the coordinator while it is on trial.
    let given_up = site.publish(1, 3, agent_of(version(1)));
    site.want(Some(&given_up)).await;
    let on_trial = site.upgrade("its trial", |report, upgrade| {
        report.agent == version(1) && upgrade.phase == UpgradePhase::Trial && upgrade.manifest == given_up.manifest
    });
    let session = on_trial.await.session;
    site.say(session, UpgradeWord::Abort { release_seq: 3, why: "a canary died".into() }).await;
    let why = site.fails(&given_up, Status::RolledBack).await;
    assert!(why.contains("a canary died"), "{why}");
    println!("the app answered {} times", site.every_answer().await);
}

/// A case of its own: it takes a minute until the supervisor believes it, and the others need not wait for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_that_stops_to_answer_in_the_middle_of_its_trial_is_ended() {
    let mut site = Site::start("SOURCE\nstart_secs = 5\ntrial_secs = 8\nretry_secs = 600").await;
    let frozen = site.publish(1, 1, agent_of(version(1)));
    site.want(Some(&frozen)).await;
    site.upgrade("its trial", |report, upgrade| {
        report.agent == version(1) && upgrade.phase == UpgradePhase::Trial && upgrade.manifest == frozen.manifest
    })
    .await;
    kill(Pid::from_raw(site.process(Instance::B)), Signal::SIGSTOP).unwrap();
    let why = site.fails(&frozen, Status::RolledBack).await;
    assert!(why.contains("was ended") || why.contains("ended before"), "{why}");
    println!("the app answered {} times", site.every_answer().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_in_the_middle_of_it_it_is_tried_again_and_ends_well() {
    let mut site = Site::start("retry_secs = 1").await;
    let wish = site.coordinator.state().releases.publish(version(1), 1, agent_of(version(1)));
    // The download is cut off, and goes on where it was.
    site.coordinator.state().releases.chunks_max = 100;
    site.want(Some(&wish)).await;
    eventually("the download to stand still", || async { site.coordinator.state().releases.chunks == 100 }).await;
    shoot(site.process(Instance::A));
    tokio::time::sleep(Duration::from_secs(1)).await;
    site.coordinator.state().releases.chunks_max = u64::MAX;
    let old = site.reports("the old one again", |report| report.agent == version(0)).await.session;
    let phase = |report: &bramble_contracts::v3::Report| report.agent == version(1);
    let first = site.upgrade("the first trial", |report, _| phase(report)).await;
    let (size, chunks) = {
        let state = site.coordinator.state();
        (state.releases.blobs.values().next().unwrap().len() as u64, state.releases.chunks)
    };
    assert!(chunks <= size.div_ceil(64 * 1024) + 2, "{chunks} chunks: what came in before is not asked for again");
    // The new one is killed on trial: the old one acts at once, and tries again by itself.
    shoot(site.process(Instance::B));
    site.reports("the old one to act", |report| report.agent == version(0) && report.session != first.session).await;
    let second = site.upgrade("the second trial", |report, _| phase(report) && report.session != first.session).await;
    assert_ne!(second.session, old);
    // The supervisor is killed, and the agents with it: as when the power goes. It starts what the link names, alone.
    site.kill_supervisor().await;
    site.supervise();
    let hand = site.coordinate();
    site.settles(1).await;
    drop(hand);
    println!("the app answered {} times", site.every_answer().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_signed_by_enough_people_is_refused_and_told() {
    use bramble_contracts::release::ReleaseManifest;
    use ed25519_dalek::SigningKey;
    let site = Site::start("SOURCE\nretry_secs = 1").await;
    let good = site.publish(1, 1, agent_of(version(1)));
    let forged = {
        let mut state = site.coordinator.state();
        let (_, signed) = state.releases.manifests[&good.manifest].clone();
        let manifest = ReleaseManifest::open_unsigned(&signed).unwrap();
        let once = manifest.sign(&[&SigningKey::from_bytes(&[61; 32])]).unwrap();
        state.releases.wish_for(&manifest, once)
    };
    let why = site.fails(&forged, Status::Failed).await;
    assert!(why.contains("has 1 valid signatures, needs 2"), "{why}");
    let told = |report: &bramble_contracts::v3::Report| {
        report
            .refused
            .iter()
            .any(|refusal| refusal.kind == RefusalKind::Signature && refusal.detail.contains("needs 2"))
    };
    site.reports("the refusal to be told", told).await;
    // A timestamp that is over is nobody's fault: it waits, and goes on by itself.
    site.coordinator.state().releases.stale = true;
    site.want(Some(&good)).await;
    site.upgrade("it to wait", |_, upgrade| upgrade.reason.contains("vouches anew") && !upgrade.blamed).await;
    let hand = site.coordinate();
    site.coordinator.state().releases.stale = false;
    site.settles(1).await;
    drop(hand);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_comes_from_the_sites_own_server_and_goes_on_where_it_was_cut_off() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let site = Site::start(&format!("source = \"http://127.0.0.1:{port}/files\"")).await;
    let binary = agent_of(version(1));
    let wish = site.publish(1, 1, binary.clone());
    let served = tokio::spawn(async move {
        let mut asked = vec![];
        for cut in [binary.len() / 3, usize::MAX] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![];
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap().to_lowercase();
            let from =
                head.lines().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok());
            let from: usize = from.unwrap_or(0);
            let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", binary.len() - from);
            stream.write_all(answer.as_bytes()).await.unwrap();
            // The first connection breaks in the middle.
            let to = binary.len().min(from.saturating_add(cut));
            stream.write_all(&binary[from..to]).await.ok();
            asked.push((head.lines().next().unwrap().to_owned(), from));
        }
        asked
    });
    let hand = site.coordinate();
    site.want(Some(&wish)).await;
    site.settles(1).await;
    drop(hand);
    let asked = served.await.unwrap();
    assert!(asked.iter().all(|(line, _)| line.starts_with("get /files/")), "{asked:?}");
    assert!(asked[0].1 == 0 && asked[1].1 > 0, "{asked:?}");
    assert_eq!(site.coordinator.state().releases.chunks, 0, "nothing came over the mesh");
}
