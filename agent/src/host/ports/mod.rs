//! Host ports that outlive containers: one nftables table for each app that hands over start first.
//!
//! Decides how a table is looked at, replaced and removed, and when the last connection to an old container has ended.
//! What leads where is decided in `core`. Tables of anybody else are never touched; what is in the kernel stays when the
//! agent dies, and is gone after a boot.

mod bridge;
mod flows;
mod local;
mod netlink;
mod news;
mod nft;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bramble_contracts::v1::Protocol;

pub use news::forward;

use super::cmd::{self, Bounds, Finished};
use super::device::text;
use crate::core::app::AppKey;
use crate::core::mapping::{Address, Mapping};
use crate::core::step::{Listeners, StepError};

/// A table of a few thousand ports.
const OUTPUT_BYTES: usize = 4 << 20;
const NFT_TIME_MAX: Duration = Duration::from_secs(10);
/// Open connections are counted between so soon and so late.
const DRAIN_PAUSE_MIN: Duration = Duration::from_millis(20);
const DRAIN_PAUSE_MAX: Duration = Duration::from_millis(500);

/// The tables of one agent.
#[derive(Debug)]
pub struct Ports {
    mark: String,
    place: String,
    /// Which of our tables there are, as far as we know; asked for once. Apps without one cost nothing.
    known: Mutex<Option<BTreeSet<String>>>,
}

impl Ports {
    /// Of the agent whose apps lie there.
    pub fn of(apps: &Path) -> Self {
        let place = apps.display().to_string();
        Self { mark: nft::mark(&place), place, known: Mutex::new(None) }
    }

    /// How the names of its tables begin.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// What the app's table says; `None` when there is none.
    pub async fn look(&self, key: &AppKey) -> Result<Option<Mapping>, String> {
        let table = nft::table(&self.mark, key);
        if !self.knows(&table).await {
            return Ok(None);
        }
        let listed = match nft(&["-j", "list", "table", "inet", &table], "").await {
            Ok(listed) => listed,
            // Without nft the app is looked after all the same; that its ports are not as they should be is said then.
            Err(why) => {
                tracing::warn!(why, table, "it is not known where host ports lead");
                return Ok(Some(Mapping::default()));
            }
        };
        if listed.stderr.contains("No such file or directory") {
            self.remember(&table, false);
            return Ok(None);
        }
        let json = done(listed)?;
        let mut mapping = nft::read(&json).ok_or_else(|| format!("nft's list of table {table} cannot be read"))?;
        let mapping_there = mapping.clone();
        if !blocking(move || local::is_open(&mapping_there)).await? {
            mapping.routes.clear();
        }
        Ok(Some(mapping))
    }

    async fn knows(&self, table: &str) -> bool {
        let known =
            self.known.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|known| known.contains(table));
        if let Some(known) = known {
            return known;
        }
        let listed = nft(&["-j", "list", "tables"], "").await.and_then(done);
        let tables = listed.and_then(|json| nft::read_tables(&json).ok_or_else(|| "its list cannot be read".into()));
        let mut tables = match tables {
            Ok(tables) => tables,
            // Apps that never had one are not to suffer; for the others it is said when they want theirs.
            Err(why) => {
                tracing::debug!(why, "it is not known which tables there are");
                return false;
            }
        };
        tables.retain(|table| table.starts_with(&self.mark));
        let there = tables.contains(table);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(tables);
        there
    }

    fn remember(&self, table: &str, there: bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_default();
        if there {
            known.insert(table.to_owned())
        } else {
            known.remove(table)
        };
    }

    /// Leads an app's host ports to where the mapping says, in one transaction. Connections that are open stay where they
    /// are, but for those to `stale` addresses, which nothing has any more.
    pub async fn map(
        &self,
        key: &AppKey,
        mapping: &Mapping,
        addresses: &[Address],
        stale: &BTreeSet<IpAddr>,
        listeners: Listeners,
    ) -> Result<(), StepError> {
        let wish = mapping.clone();
        let ready = blocking(move || {
            let conflict = match listeners {
                Listeners::Nobody => local::conflict(&wish),
                Listeners::Podman => None,
            };
            conflict.map_or_else(|| local::open(&wish), Err)
        });
        ready.await.and_then(|ready| ready).map_err(StepError::Refused)?;
        let table = nft::table(&self.mark, key);
        let about = format!("host ports of {key}, by the agent of {}", self.place);
        let about = about.replace(['"', '\n'], "").chars().take(100).collect::<String>();
        let script = nft::script(&table, &about, mapping, addresses);
        nft(&["-f", "-"], &script).await.and_then(done).map_err(StepError::Refused)?;
        self.remember(&table, true);
        let (stale, mapping) = (stale.clone(), mapping.clone());
        forget(move || (stale, udp_ports(&mapping))).await;
        Ok(())
    }

    /// Leads an app's host ports nowhere.
    pub async fn unmap(&self, key: &AppKey) -> Result<(), StepError> {
        let table = nft::table(&self.mark, key);
        // Made first, so that one that is gone already is no error.
        let script = format!("add table inet {table}\ndelete table inet {table}\n");
        nft(&["-f", "-"], &script).await.and_then(done).map_err(StepError::Refused)?;
        self.remember(&table, false);
        Ok(())
    }

    /// Waits until no connection is open to these addresses, at most so long.
    pub async fn drain(&self, addresses: &BTreeSet<IpAddr>, within: Duration) {
        if addresses.is_empty() {
            return;
        }
        let empty = async {
            let mut pause = DRAIN_PAUSE_MIN;
            loop {
                let addresses = addresses.clone();
                match blocking(move || flows::open(&addresses)).await {
                    Ok(Ok(0)) => return,
                    Ok(Ok(count)) => tracing::debug!(count, "connections are open to a replaced container"),
                    // Nobody is cut off because the kernel does not tell: then the whole time is waited.
                    Ok(Err(err)) => tracing::warn!(%err, "cannot count the connections to a replaced container"),
                    Err(why) => tracing::warn!(why, "cannot count the connections to a replaced container"),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(DRAIN_PAUSE_MAX);
            }
        };
        if tokio::time::timeout(within, empty).await.is_err() {
            tracing::info!("connections to a replaced container are still open; it is stopped all the same");
        }
    }

    /// Makes the kernel forget the ways to containers that are gone.
    pub async fn forget(&self, addresses: BTreeSet<IpAddr>) {
        forget(move || (addresses, BTreeSet::new())).await;
    }
}

/// Keeps containers reachable while others on their bridge come and go. Called after each start.
pub async fn keep_bridges(bridges: Vec<String>) {
    let done = blocking(move || {
        for bridge in bridges {
            if let Err(err) = bridge::keep_address(&bridge) {
                tracing::warn!(%err, bridge, "a bridge may change its address: containers may be cut off for seconds when others come or go");
            }
        }
    });
    if let Err(why) = done.await {
        tracing::warn!(why, "bridges were not looked after");
    }
}

/// What bridged traffic does to ::1 on this device, for `bramble-agent check`.
pub fn loopback_ipv6_is_cut() -> bool {
    local::bridges_filter_ipv6()
}

fn udp_ports(mapping: &Mapping) -> BTreeSet<SocketAddr> {
    let own = local::addresses();
    let udp = mapping.routes.iter().filter(|route| route.protocol == Protocol::Udp);
    udp.flat_map(|route| own.iter().map(|ip| SocketAddr::new(*ip, route.port))).collect()
}

/// A way that is not forgotten costs a UDP client a pause; that is no reason to fail.
async fn forget(what: impl FnOnce() -> (BTreeSet<IpAddr>, BTreeSet<SocketAddr>) + Send + 'static) {
    let done = blocking(move || {
        let (addresses, udp) = what();
        if addresses.is_empty() && udp.is_empty() { Ok(()) } else { flows::forget(&addresses, &udp) }
    });
    match done.await {
        Ok(Ok(())) => {}
        Ok(Err(err)) => tracing::warn!(%err, "the kernel does not forget old ways to a container"),
        Err(why) => tracing::warn!(why, "the kernel does not forget old ways to a container"),
    }
}

async fn nft(args: &[&str], input: &str) -> Result<Finished, String> {
    let bounds = Bounds { time: NFT_TIME_MAX, output_bytes: OUTPUT_BYTES };
    let ended = cmd::feed(Path::new("nft"), args, input, bounds).await;
    ended.map_err(|err| format!("cannot lead host ports: {} (package nftables)", text(&err)))
}

fn done(ended: Finished) -> Result<String, String> {
    if ended.status.success() {
        return Ok(ended.stdout);
    }
    let said = ended.stderr.lines().next().unwrap_or("it says nothing");
    Err(format!("nftables refuses to lead host ports: {said}"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|err| format!("looking at the network broke off: {err}"))
}
