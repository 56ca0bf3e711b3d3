//! Random kill -9 of whoever takes part, at random moments of upgrades: 10 in each run, 100 with `--full`. It always ends with
//! one agent acting, of the wished version, and the app answers all the time.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::eventually;
use crate::site::{Site, agent_of, version};

/// A little generator: the moments are others in each run, and the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, max: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % max
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_kills_never_leave_a_device_without_its_agent() {
    let seed = crate::common::seed();
    let (mut dice, kills) = (Dice(seed | 1), if crate::common::full() { 100 } else { 10 });
    println!("BRAMBLE_SEED={seed}");
    // Whoever is killed three times at the same attempt is no bad release: it is retried by the operator, as here.
    let mut site = Site::start("SOURCE\nretry_secs = 1").await;
    let hand = site.coordinate();
    let (mut done, mut seq) = (0, 0);
    while done < kills {
        // To and fro between two versions; sequences only grow.
        let patch = 1 + u16::try_from(seq % 2).unwrap();
        seq += 1;
        let mut wish = site.publish(patch, seq, agent_of(version(patch)));
        site.want(Some(&wish)).await;
        for _ in 0..1 + dice.below(3) {
            tokio::time::sleep(Duration::from_millis(dice.below(4000))).await;
            let agents = site.agents();
            match dice.below(8) {
                // Both at once, and whoever starts them: the power goes.
                0 => {
                    site.kill_supervisor().await;
                    site.supervise();
                }
                1 => {
                    let mut broker = site.coordinator.broker.lock().await;
                    broker.kill().await;
                    broker.run().await;
                }
                n => {
                    let at = usize::try_from(n).unwrap() % agents.len().max(1);
                    if let Some((_, pid)) = agents.get(at) {
                        // It may have ended by itself.
                        kill(Pid::from_raw(*pid), Signal::SIGKILL).ok();
                    }
                }
            }
            done += 1;
        }
        loop {
            let blamed = site
                .reports("it to end", |report| {
                    let there = report.agent == version(patch) && report.program.release_seq == wish.release_seq;
                    let refused = report.program.upgrade.as_ref().is_some_and(|upgrade| {
                        upgrade.manifest == wish.manifest && upgrade.attempt == wish.attempt && upgrade.blamed
                    });
                    there && report.program.upgrade.as_ref().is_some_and(|u| u.phase == DONE || u.phase == STOPPING)
                        || refused
                })
                .await;
            if blamed.agent == version(patch) {
                break;
            }
            wish.attempt += 1;
            site.want(Some(&wish)).await;
        }
        site.settles(patch).await;
        eventually("one agent to be left", || async { site.agents().len() == 1 }).await;
    }
    drop(hand);
    let answers = site.every_answer().await;
    println!("{done} kills in {seq} upgrades; the app answered {answers} times out of {answers}");
}

const DONE: bramble_contracts::v2::UpgradePhase = bramble_contracts::v2::UpgradePhase::Done;
const STOPPING: bramble_contracts::v2::UpgradePhase = bramble_contracts::v2::UpgradePhase::Stopping;
