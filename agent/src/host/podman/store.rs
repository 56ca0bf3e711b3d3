//! Mending a store with which Podman cannot work at all: its database is moved aside first, which costs the containers;
//! then the whole store, which costs the images too. Volumes lie elsewhere and are never touched.
//!
//! Decides the order and how often. What was done is counted on disk, so that an agent that is started again and again
//! does not begin anew. Nothing is deleted but what an earlier mending moved aside.

use std::fs;
use std::path::{Path, PathBuf};

use super::damage::StoreDamage;
use crate::host::orphans;
use crate::host::state::StateFile;

/// Files of Podman's database: of 4.3, and of 5.4.
const DATABASES: [&str; 4] = ["libpod", "db.sql", "db.sql-wal", "db.sql-shm"];
/// What lies beside the store with this in its name was moved aside.
const ASIDE: &str = ".damaged";
/// So often in a row; a service that has run for a while ends the row.
const TRIES_MAX: u32 = 3;
const FORMAT: u32 = 1;

/// The store, and what was done to it.
#[derive(Debug)]
pub(super) struct Mender {
    store: PathBuf,
    count: StateFile,
}

impl Mender {
    pub(super) fn new(store: &Path) -> Self {
        Self { store: store.to_owned(), count: StateFile::new(with_suffix(store, ".mended"), FORMAT) }
    }

    /// Moves the damaged part aside and says what was done; an error when it was done often enough, or cannot be.
    pub(super) async fn mend(&self, damage: StoreDamage, why: &str) -> Result<String, String> {
        let done = self.count();
        if done >= TRIES_MAX {
            return Err(format!(
                "Podman cannot work with {} ({why}), also after it was made anew {done} times; the disk may be broken",
                self.store.display()
            ));
        }
        self.keep_count(done + 1)?;
        self.end_containers().await;
        // The database alone first; when that has not helped, everything.
        let damage = if done == 0 { damage } else { StoreDamage::Store };
        let store = self.store.clone();
        let aside = tokio::task::spawn_blocking(move || move_aside(&store, damage)).await;
        let aside = aside.map_err(|err| err.to_string())?;
        let aside = aside.map_err(|err| format!("cannot move the damaged store aside: {err}"))?;
        let lost = match damage {
            StoreDamage::Database => "containers are made anew, images and volumes are kept".to_owned(),
            StoreDamage::Store => format!(
                "images are pulled again and volumes are kept; images that were loaded by hand{} must be loaded again",
                local_images(&aside)
            ),
        };
        let aside = aside.display();
        Ok(format!("Podman's store was damaged, and that part of it moved to {aside}: {lost}; Podman had said: {why}"))
    }

    /// Podman works: another damage begins another row.
    pub(super) fn worked(&self) {
        if self.count() > 0
            && let Err(err) = self.count.remove()
        {
            tracing::warn!(%err, "cannot forget that the store was mended");
        }
    }

    fn count(&self) -> u32 {
        match self.count.load_json::<u32>() {
            Ok(loaded) => loaded.value().unwrap_or_default(),
            Err(err) => {
                tracing::warn!(%err, "it is not known how often the store was mended");
                TRIES_MAX - 1
            }
        }
    }

    fn keep_count(&self, count: u32) -> Result<(), String> {
        self.count.store_json(&count).map_err(|err| format!("cannot write how often the store was mended: {err}"))
    }

    /// A Podman that knows nothing of them will make them anew: they must not run twice, nor hold their ports.
    async fn end_containers(&self) {
        for id in orphans::served(&self.store) {
            orphans::end(&self.store, &id).await;
        }
        orphans::unmount_below(&self.store);
    }
}

/// What lies beside a store because it was damaged; nobody needs it but whoever wants to know why.
pub fn moved_aside(store: &Path) -> Option<PathBuf> {
    Some(with_suffix(store, ASIDE)).filter(|aside| aside.exists())
}

fn move_aside(store: &Path, damage: StoreDamage) -> std::io::Result<PathBuf> {
    let aside = with_suffix(store, ASIDE);
    if aside.exists() {
        fs::remove_dir_all(&aside)?;
    }
    match damage {
        StoreDamage::Store => fs::rename(store, &aside)?,
        StoreDamage::Database => {
            fs::create_dir_all(&aside)?;
            for name in DATABASES {
                match fs::rename(store.join(name), aside.join(name)) {
                    Err(err) if err.kind() != std::io::ErrorKind::NotFound => return Err(err),
                    Ok(()) | Err(_) => {}
                }
            }
        }
    }
    Ok(aside)
}

/// Names of images that no registry gives back, as far as the damaged store still tells.
fn local_images(aside: &Path) -> String {
    let text = fs::read_to_string(aside.join("overlay-images/images.json")).unwrap_or_default();
    let mut names: Vec<&str> = text.split('"').filter(|word| word.starts_with("localhost/")).collect();
    names.retain(|name| !name.contains("@sha256") && !name.starts_with("localhost/podman-pause"));
    names.sort_unstable();
    names.dedup();
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}

fn with_suffix(store: &Path, suffix: &str) -> PathBuf {
    let mut name = store.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    store.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(dir: &Path) -> PathBuf {
        let store = dir.join("store");
        fs::create_dir_all(store.join("libpod")).unwrap();
        fs::create_dir_all(store.join("overlay-images")).unwrap();
        fs::write(store.join("libpod/bolt_state.db"), "rubbish").unwrap();
        let images = r#"[{"id":"1","names":["localhost/a:1","localhost/a@sha256:0"]},{"id":"2","names":["reg/b:1"]}]"#;
        fs::write(store.join("overlay-images/images.json"), images).unwrap();
        store
    }

    #[tokio::test]
    async fn the_database_goes_first_then_all_of_it_and_then_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let mender = Mender::new(&store);
        let said = mender.mend(StoreDamage::Database, "invalid database").await.unwrap();
        assert!(said.contains("images and volumes are kept") && said.contains("invalid database"), "{said}");
        assert!(!store.join("libpod").exists() && store.join("overlay-images").exists());
        assert!(moved_aside(&store).unwrap().join("libpod/bolt_state.db").exists());
        let said = mender.mend(StoreDamage::Database, "still").await.unwrap();
        assert!(said.contains("images that were loaded by hand (localhost/a:1) must be loaded again"), "{said}");
        assert!(!store.exists() && moved_aside(&store).unwrap().join("overlay-images").exists());
        fs::create_dir(&store).unwrap();
        mender.mend(StoreDamage::Store, "still").await.unwrap();
        let end = Mender::new(&store).mend(StoreDamage::Store, "still").await.unwrap_err();
        assert!(end.contains("3 times") && end.contains("the disk may be broken"), "{end}");
        mender.worked();
        fs::create_dir(&store).unwrap();
        assert!(mender.mend(StoreDamage::Store, "again").await.is_ok(), "another row");
    }
}
