//! Room on the disk: images come in only where they fit, and go when room runs out and nobody needs them.
//!
//! Measures, asks and removes; `core::disk` judges. Needs are what every app's loop asked for last, and what records say of
//! apps that have no loop yet: while one of them cannot be read, nothing is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use super::device::text;
use super::layers::Image;
use super::podman::{Podman, PullLimits, Users, moved_aside};
use super::{clock, facts, layers, records, repair};
use crate::core::app::AppKey;
use crate::core::disk::{self, Admit, Bytes, Disk, DiskRules, NoRoom, StoredImage};
use crate::core::step::PullNeed;
use crate::supervise::{FoundRecord, HostEvent};

/// How often a disk that fills by itself is looked at.
const PERIOD: Duration = Duration::from_secs(15);
/// How often when there is nothing to remove.
const IDLE_PERIOD: Duration = Duration::from_secs(300);
/// How often while a pull fills it.
const PULL_PERIOD: Duration = Duration::from_millis(250);
/// How long it is told that room was made.
const TOLD: Duration = Duration::from_secs(3600);
/// A refresh of an image that is there already is given up sooner than a pull that is needed.
const REFRESH_LIMITS: PullLimits = PullLimits { silence: Duration::from_secs(30), whole: Duration::from_secs(15 * 60) };

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Freed {
    /// Bytes that are free now and were not before.
    pub bytes: u64,
    /// What it was.
    pub what: Vec<String>,
}

/// What came of making room, for people.
#[derive(Debug, Default)]
struct Relief {
    /// What was removed.
    freed: Option<String>,
    /// What they have to do.
    urgent: Option<String>,
}

/// The disk of one device.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) podman: Podman,
    apps: PathBuf,
    pub(super) store: PathBuf,
    records: PathBuf,
    rules: DiskRules,
    needs: Mutex<BTreeMap<AppKey, Vec<String>>>,
    /// One at a time removes.
    removing: tokio::sync::Mutex<()>,
}

impl Room {
    pub(super) fn new(podman: Podman, apps: &Path, store: &Path, records: &Path, rules: DiskRules) -> Self {
        Self {
            podman,
            apps: apps.to_owned(),
            store: store.to_owned(),
            records: records.to_owned(),
            rules,
            needs: Mutex::default(),
            removing: tokio::sync::Mutex::default(),
        }
    }

    /// An app needs these images, and only these.
    pub(super) fn needs(&self, key: &AppKey, images: &[String]) {
        let mut needs = self.needs.lock().unwrap_or_else(PoisonError::into_inner);
        if needs.get(key).map(Vec::as_slice) != Some(images) {
            needs.insert(key.clone(), images.to_vec());
        }
    }

    /// Nothing is left of the app.
    pub(super) fn forget(&self, key: &AppKey) {
        self.needs.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// Fetches an image, if it fits.
    pub(super) async fn pull(&self, image: &str, need: PullNeed) -> Result<(), String> {
        match need {
            PullNeed::Missing | PullNeed::Refresh => self.fetch(image, need).await,
            PullNeed::Repair => repair::repair(self, image).await,
        }
    }

    pub(super) async fn fetch(&self, image: &str, need: PullNeed) -> Result<(), String> {
        let layers = self.podman.remote_layers(image).await;
        // A registry that does not say how large it is may still give it; its refusal is the pull's.
        let need_bytes = match layers {
            Ok(Some(layers)) => disk::need(&layers, &self.layers().await),
            Ok(None) | Err(_) => disk::UNKNOWN_BYTES,
        };
        self.make_fit(image, need_bytes).await?;
        let limits = match need {
            PullNeed::Missing | PullNeed::Repair => PullLimits::default(),
            PullNeed::Refresh => REFRESH_LIMITS,
        };
        let pulling = self.podman.pull(image, limits, |line| tracing::info!(image, "{line}"));
        tokio::select! {
            pulled = pulling => pulled.map(|_| ()).map_err(|err| text(&err))?,
            disk = self.runs_out(), if need_bytes > 0 => return Err(format!(
                "the pull of {image} was stopped, because {} are to stay free and only {} of {} are left: make room",
                Bytes(self.rules.reserve(disk)), Bytes(disk.free), Bytes(disk.total)
            )),
        }
        self.verify(image).await
    }

    /// Refuses before anything is touched; collects first where that helps.
    async fn make_fit(&self, image: &str, need: u64) -> Result<(), String> {
        if need == 0 {
            return Ok(());
        }
        let before = self.disk();
        if disk::admit(image, need, before, &self.rules, 0).is_ok() {
            return Ok(());
        }
        let collectable = self.collectable().await.unwrap_or_else(|why| {
            tracing::warn!(why, "nothing can be collected");
            Vec::new()
        });
        let bytes = collectable.iter().map(|image| image.bytes).sum();
        let goal = match disk::admit(image, need, before, &self.rules, bytes).map_err(|err| err.to_string())? {
            Admit::Fits => return Ok(()),
            Admit::AfterCollecting(goal) => goal,
        };
        let freed = self.collect(goal).await?;
        tracing::info!(image, freed = %Bytes(freed.bytes), what = ?freed.what, "made room");
        // What images share is freed with the last of them: what was promised may not have come.
        let now = self.disk();
        let short =
            || NoRoom { image: image.to_owned(), need, reserve: self.rules.reserve(now), disk: now, collectable: 0 };
        disk::admit(image, need, now, &self.rules, 0).map(|_| ()).map_err(|_| short().to_string())
    }

    /// Ends when less is free than is to stay free.
    async fn runs_out(&self) -> Disk {
        loop {
            tokio::time::sleep(PULL_PERIOD).await;
            let disk = self.disk();
            if disk.total > 0 && disk.free < self.rules.reserve(disk) {
                return disk;
            }
        }
    }

    /// What Podman says it has must be what was asked for.
    async fn verify(&self, image: &str) -> Result<(), String> {
        let Some((_, pinned)) = image.split_once('@') else { return Ok(()) };
        let found = self.podman.image(image).await.map_err(|err| text(&err))?;
        let found = found.ok_or_else(|| format!("image {image} was pulled, and Podman does not have it"))?;
        let fits = |digest: &String| digest.rsplit('@').next() == Some(pinned);
        if fits(&found.digest) || found.repo_digests.iter().any(fits) {
            return Ok(());
        }
        Err(format!(
            "image {image} was pulled, but what came has the digest {}; the registry is not to be trusted",
            found.digest
        ))
    }

    /// Frees so many bytes, or as many as can be.
    async fn collect(&self, goal: u64) -> Result<Freed, String> {
        let _one = self.removing.lock().await;
        let before = self.disk().free;
        let mut freed = Freed::default();
        if let Some(aside) = moved_aside(&self.store) {
            freed.what.push(aside.display().to_string());
            remove_dir(aside).await?;
        }
        for image in self.collectable().await? {
            freed.bytes = self.disk().free.saturating_sub(before);
            if freed.bytes >= goal {
                break;
            }
            // Without force: a container that appeared meanwhile keeps its image.
            match self.podman.image_remove(&image.id, Users::Kept).await {
                Ok(()) => freed.what.push(image.title().to_owned()),
                Err(err) => tracing::debug!(%err, "an image stays"),
            }
        }
        freed.bytes = self.disk().free.saturating_sub(before);
        Ok(freed)
    }

    /// What may go, the oldest first.
    pub(super) async fn collectable(&self) -> Result<Vec<StoredImage>, String> {
        let needed = self.needed().await?;
        let images = self.stored().await?;
        Ok(disk::collectable(&images, &needed).into_iter().cloned().collect())
    }

    /// Everything in the store. Podman 4.3 lists nothing when one image is damaged; then its own lists are read.
    async fn stored(&self) -> Result<Vec<StoredImage>, String> {
        match self.podman.images().await {
            Ok(lines) => return Ok(lines.into_iter().map(|line| line.stored()).collect()),
            Err(err) if err.is_outage() => return Err(text(&err)),
            Err(err) => tracing::debug!(%err, "reading Podman's own list of images"),
        }
        let store = self.store.clone();
        let images = tokio::task::spawn_blocking(move || layers::images(&store)).await;
        let images = images.map_err(|err| err.to_string())?.map_err(|err| format!("cannot list images: {err}"))?;
        let containers = self.podman.list(&[]).await.map_err(|err| text(&err))?;
        let users = |id: &str| containers.iter().filter(|line| line.image_id == id).count() as u64;
        // They stand in the order they came in; how much each of them would free is not known.
        let one = |(n, image): (usize, Image)| StoredImage {
            containers: users(&image.id),
            id: image.id,
            names: image.names,
            bytes: 0,
            created_s: i64::try_from(n).unwrap_or(i64::MAX),
        };
        Ok(images.into_iter().enumerate().map(one).collect())
    }

    /// Names and ids of images that some app needs.
    async fn needed(&self) -> Result<BTreeSet<String>, String> {
        let dir = self.records.clone();
        let found = tokio::task::spawn_blocking(move || records::read(&dir)).await;
        let found =
            found.map_err(|err| err.to_string())?.map_err(|err| format!("the records cannot be read: {err}"))?;
        let mut needed: BTreeSet<String> = BTreeSet::new();
        {
            let needs = self.needs.lock().unwrap_or_else(PoisonError::into_inner);
            for one in found {
                match one {
                    FoundRecord::Good(record, _) => {
                        let images = record.current_app().map(|app| app.images()).unwrap_or_default();
                        needed.extend(images.into_iter().map(|image| image.reference));
                    }
                    FoundRecord::Damaged(key, why)
                    | FoundRecord::Unusable(key, why)
                    | FoundRecord::Unread(key, why) => {
                        if !needs.contains_key(&key) {
                            return Err(format!("it is not known which images {key} needs: {why}"));
                        }
                    }
                }
            }
            needed.extend(needs.values().flatten().cloned());
        }
        // A name can be written in several ways; the id is one.
        for reference in needed.clone() {
            if let Ok(Some(image)) = self.podman.image(&reference).await {
                needed.insert(image.id);
            }
        }
        Ok(needed)
    }

    /// Digests of layers that are in the store. None when it does not tell.
    async fn layers(&self) -> BTreeSet<String> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || layers::present(&store)).await.unwrap_or_default()
    }

    fn disk(&self) -> Disk {
        facts::space(&self.apps)
    }

    /// Looks after the room until nobody listens.
    pub(super) async fn keep(&self, out: mpsc::Sender<HostEvent>) {
        let mut freed: Option<(Duration, String)> = None;
        let mut told = Vec::new();
        loop {
            let mut pause = PERIOD;
            let mut notices = Vec::new();
            if let Some(goal) = disk::pressure(self.disk(), &self.rules) {
                let relief = self.relieve(goal).await;
                match relief.freed {
                    Some(text) => freed = Some((clock::uptime(), text)),
                    None => pause = IDLE_PERIOD,
                }
                notices.extend(relief.urgent);
            }
            let fresh = freed.iter().filter(|(at, _)| clock::uptime().saturating_sub(*at) < TOLD);
            notices.extend(fresh.map(|(_, text)| text.clone()));
            if notices != told {
                told.clone_from(&notices);
                if out.send(HostEvent::Notices(notices)).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = out.closed() => return,
            }
        }
    }

    /// Collects, and says what is still wrong.
    async fn relieve(&self, goal: u64) -> Relief {
        let (before, mut relief) = (self.disk(), Relief::default());
        let low = |disk: Disk, then: &str| {
            format!(
                "the disk of {} is low: {} of {} are free; {then}",
                self.apps.display(),
                Bytes(disk.free),
                Bytes(disk.total)
            )
        };
        match self.collect(goal).await {
            Ok(freed) if !freed.what.is_empty() => {
                let what = freed.what.join(", ");
                let text =
                    low(before, &format!("{} were freed by removing what no app needs: {what}", Bytes(freed.bytes)));
                tracing::warn!("{text}");
                relief.freed = Some(text);
            }
            Ok(_) => {}
            Err(why) => tracing::debug!(why, "nothing can be collected"),
        }
        // Until pulls are refused nobody needs to act.
        let after = self.disk();
        let urgent = after.free < self.rules.reserve(after);
        let text = || low(after, "images that no app needs are gone, and nothing is pulled any more: make room");
        relief.urgent = urgent.then(text);
        relief
    }
}

async fn remove_dir(dir: PathBuf) -> Result<(), String> {
    let shown = dir.display().to_string();
    let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(&dir)).await;
    removed.map_err(|err| err.to_string())?.map_err(|err| format!("cannot remove {shown}: {err}"))
}
