//! What each privileged unit does: takes its order from the state volume, looks whether its condition holds, does it, and
//! leaves a durable result. One at a time: they share a lock.
//!
//! Decides in which order a verb's parts are done, and what a failure is about. Trusts nobody to live: the agent may die
//! meanwhile, and the power may go between two lines.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use bramble_contracts::boot::{GROUP, Phase, ROOT, SNAPSHOT, Slot, Snapshot, autoboot, autoboot_text};
use nix::fcntl::{Flock, FlockArg};

use super::apt_run::Apt;
use super::files::Files;
use super::look::{lvm, seen};
use super::machine::Machine;
use super::mounts::{self, Mounted, Use};
use super::partition;
use super::quiet::Quiet;
use super::slots;
use crate::core::os::{
    About, BootFiles, Ground, Order, Plan, Protection, UnitFailure, UnitResult, Verb, Volumes, allows,
};
use crate::host::{facts, state};

/// What came of it.
type Done = Result<Option<Plan>, UnitFailure>;

/// Takes the order of this verb and does it; writing packages takes no longer than `apply_max`. What it could not do is in its
/// result.
///
/// # Errors
/// No order, no lock, or a result that cannot be written.
pub async fn run(verb: Verb, files: &Files, apply_max: Duration) -> anyhow::Result<()> {
    let _turn = turn(files)?;
    let order = files.order(verb).map_err(anyhow::Error::msg)?;
    let result = Unit { files, order: &order, machine: Machine::look(), apply_max }.perform().await;
    match &result {
        Ok(_) => tracing::info!(%verb, "done"),
        Err(UnitFailure { about, why }) => tracing::warn!(%verb, ?about, why, "it could not be done"),
    }
    let result = UnitResult { ticket: order.ticket.clone(), boot: facts::boot_id(), result };
    Ok(files.leave(verb, &result)?)
}

/// Waits for the one that is at work.
pub(super) fn turn(files: &Files) -> anyhow::Result<Flock<File>> {
    state::make_dir(&files.folder())?;
    let path = files.lock();
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, err)| anyhow::anyhow!("cannot lock {}: {err}", path.display()))
}

struct Unit<'a> {
    files: &'a Files,
    order: &'a Order,
    machine: Machine,
    apply_max: Duration,
}

fn failed(about: About, why: impl std::fmt::Display) -> UnitFailure {
    UnitFailure { about, why: why.to_string() }
}

fn other(why: impl std::fmt::Display) -> UnitFailure {
    failed(About::Other, why)
}

/// A full disk is nobody's fault.
fn of_disk(err: &io::Error) -> UnitFailure {
    failed(if err.kind() == io::ErrorKind::StorageFull { About::Room } else { About::Other }, err)
}

impl Unit<'_> {
    async fn perform(&self) -> Done {
        let ground = seen(self.files).await.ground(&self.machine);
        allows(self.order, &ground).map_err(|why| failed(About::Condition, why))?;
        match self.order.verb {
            Verb::Plan => self.apt().plan().await.map(Some),
            Verb::Fetch => self.apt().fetch().await.map(|()| None),
            Verb::Snapshot => self.snapshot().await,
            Verb::Apply => self.apply().await,
            Verb::Arm => retag(&ground.volumes, Phase::Trial).await.map_err(other).map(|()| None),
            Verb::Fail => retag(&ground.volumes, Phase::Failed).await.map_err(other).map(|()| None),
            Verb::Commit => match ground.protection {
                Protection::Tryboot => self.flip(self.slot()?),
                Protection::Bootcount | Protection::None => self.remove().await,
            },
            Verb::Remove => self.remove().await,
            Verb::Resync => self.resync(&ground).await,
            Verb::Mend => self.flip(self.slot()?),
        }
    }

    fn apt(&self) -> Apt<'_> {
        Apt::new(self.files, self.order, self.apply_max)
    }

    fn slot(&self) -> Result<Slot, UnitFailure> {
        self.order.slot.ok_or_else(|| other("the order names no slot"))
    }

    /// The tags come last: LVM writes the snapshot into its metadata before the pool makes it, and root must not be put back
    /// to one that the pool has not made.
    async fn snapshot(&self) -> Done {
        let new = Snapshot::new(self.slot()?);
        drop_untagged().await.map_err(other)?;
        let origin = format!("{GROUP}/{ROOT}");
        lvm(&["lvcreate", "-y", "--quiet", "--snapshot", "--name", SNAPSHOT, &origin]).await.map_err(other)?;
        if let Err(why) = retag(&Volumes::Snapshot(new), new.phase).await {
            // It would take room that the next one needs. The guard removes what stays.
            let _stays = drop_untagged().await;
            return Err(other(why));
        }
        Ok(None)
    }

    async fn remove(&self) -> Done {
        lvm(&["lvremove", "-y", "--quiet", &format!("{GROUP}/{SNAPSHOT}")]).await.map_err(other)?;
        Ok(None)
    }

    /// The only commit point, and read back.
    fn flip(&self, slot: Slot) -> Done {
        let first = Mounted::first_writable(&self.files.run("os-first")).map_err(other)?;
        let text = autoboot_text(slot);
        let done = overwrite(&first.at().join("autoboot.txt"), &text);
        done.or_else(|_| replace(first.at(), "autoboot.txt", &text)).map_err(|err| of_disk(&err))?;
        let read = fs::read_to_string(first.at().join("autoboot.txt")).map_err(other)?;
        if autoboot(&read) == Some(slot) { Ok(None) } else { Err(other("autoboot.txt reads back otherwise")) }
    }

    /// What was written is whole before root says so.
    async fn apply(&self) -> Done {
        self.files.take_stamp().map_err(other)?;
        match self.order.boot_files {
            BootFiles::Upgraded => self.apply_with_slot().await?,
            BootFiles::Held => self.apply_without().await?,
        }
        self.apt().clean().await;
        nix::unistd::sync();
        self.files.put_stamp(&self.order.ticket).map_err(other)?;
        nix::unistd::sync();
        Ok(None)
    }

    async fn apply_with_slot(&self) -> Result<(), UnitFailure> {
        let (to, root) = (self.slot()?, self.files.root());
        let from = Mounted::slot(to.other(), &self.files.run("os-slot-from")).map_err(other)?;
        // Packages write their boot files where they always do.
        let target = made_like(&from, to, &root.join("boot/firmware")).await?;
        self.quietly().await?;
        // The packages may have brought another map.
        let boot_files = slots::BootFiles::of(root).map_err(|err| failed(About::Packages, err))?;
        slots::examine(&boot_files, root).await.map_err(|why| failed(About::Packages, why))?;
        let brought = slots::bring(&boot_files, root, target.at());
        brought.map_err(|err| match err.kind() {
            io::ErrorKind::NotFound => failed(About::Packages, err),
            _ => of_disk(&err),
        })?;
        slots::settings(from.at(), target.at(), to).map_err(|err| of_disk(&err))
    }

    /// Hooks that write boot files all the same write them to a folder that goes.
    async fn apply_without(&self) -> Result<(), UnitFailure> {
        let root = self.files.root();
        let scratch = root.join("var/tmp/bramble-boot-files");
        let target = Mounted::folder(&scratch, &root.join("boot/firmware")).map_err(other)?;
        let done = self.quietly().await;
        drop(target);
        if let Err(err) = fs::remove_dir_all(&scratch) {
            tracing::debug!(%err, "a folder stays");
        }
        done
    }

    async fn quietly(&self) -> Result<(), UnitFailure> {
        let quiet = Quiet::begin(self.files.root()).map_err(|err| of_disk(&err))?;
        let done = self.apt().apply().await;
        quiet.end().map_err(|err| of_disk(&err)).and(done)
    }

    async fn resync(&self, ground: &Ground) -> Done {
        let new = ground.booted.ok_or_else(|| other("which slot was booted is not known"))?;
        let from = Mounted::slot(new, &self.files.run("os-slot-from")).map_err(other)?;
        made_like(&from, new.other(), &self.files.run("os-slot-to")).await.map(|_| None)
    }
}

/// The slot, mounted to be written, with the other one's files. One that is not in order, as the power leaves them, gets a new
/// file system: nothing boots from it meanwhile, and otherwise no upgrade could ever write to it again.
async fn made_like(from: &Mounted, to: Slot, at: &Path) -> Result<Mounted, UnitFailure> {
    let device = partition::numbered(to.partition()).map_err(other)?;
    if mounts::elsewhere(&device).is_some() {
        return Err(other(format!("{} is mounted by somebody else: unmount it", device.display())));
    }
    if !partition::is_in_order(&device).await.map_err(other)? {
        tracing::warn!(slot = %to, "its partition is not in order, and gets a new file system");
        partition::format(&device, to).await.map_err(other)?;
    }
    let target = Mounted::device(&device, at, Use::Write).map_err(other)?;
    slots::copy(from.at(), target.at(), to).map_err(|err| of_disk(&err))?;
    Ok(target)
}

/// Removes a snapshot that was made and never tagged, as a unit leaves it that is killed; under the lock, and where there is
/// none that was tagged.
async fn drop_untagged() -> Result<(), String> {
    lvm(&["lvremove", "-y", "--quiet", "--select", &format!("lv_name={SNAPSHOT}"), GROUP]).await.map(drop)
}

/// One change of metadata: it is as it was, or all of it is done.
pub(super) async fn retag(volumes: &Volumes, to: Phase) -> Result<(), String> {
    let Volumes::Snapshot(held) = volumes else { return Err("there is no snapshot".into()) };
    let changes = changes(held, to);
    let name = format!("{GROUP}/{SNAPSHOT}");
    let changes: Vec<&str> = changes.iter().map(String::as_str).collect();
    lvm(&[&["lvchange", "-y", "--quiet"][..], &changes, &[&name]].concat()).await.map(drop)
}

fn changes(held: &Snapshot, to: Phase) -> Vec<String> {
    // A verdict gets all the ways back that there are.
    let returns = if to == Phase::Failed { 0 } else { held.returns };
    let (old, new) = (held.tags(), Snapshot { phase: to, returns, ..*held }.tags());
    let gone = old.iter().filter(|tag| !new.contains(tag)).flat_map(|tag| ["--deltag".to_owned(), tag.clone()]);
    // All of them: what was never tagged is whole afterwards, and what is there already stays.
    let came = new.iter().flat_map(|tag| ["--addtag".to_owned(), tag.clone()]);
    gone.chain(came).collect()
}

/// In place, where it is as long: one sector, which holds the one or the other whenever the power goes. No table of the FAT
/// takes part, which a new file and its rename leave in between for a while.
fn overwrite(path: &Path, text: &str) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    if file.metadata()?.len() != text.len() as u64 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is of another length", path.display())));
    }
    file.write_all_at(text.as_bytes(), 0)?;
    slots::settle(&file)
}

/// Written beside, synced, read back, renamed, folder synced.
fn replace(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    let (path, beside) = (folder.join(name), folder.join(format!("{name}.new")));
    let mut file = File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    slots::settle(&file)?;
    if fs::read_to_string(&beside)? != text {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} reads back otherwise", beside.display())));
    }
    slots::settle(&file)?;
    drop(file);
    fs::rename(&beside, &path)?;
    File::open(folder)?.sync_all()?;
    Ok(nix::unistd::syncfs(File::open(folder)?)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_change_of_tags_is_one_change_of_metadata() {
        let held = Snapshot { returns: 2, attempt: 1, ..Snapshot::new(Slot::B) };
        let words = |to| changes(&held, to).join(" ").replace("bramble.", "");
        let to_trial =
            "--deltag phase=apply --addtag phase=trial --addtag slot=b --addtag attempt=1 --addtag returns=2";
        assert_eq!(words(Phase::Trial), to_trial);
        let to_failed =
            "--deltag phase=apply --deltag returns=2 --addtag phase=failed --addtag slot=b --addtag attempt=1";
        assert_eq!(words(Phase::Failed), to_failed);
        let again = "--addtag phase=apply --addtag slot=b --addtag attempt=1 --addtag returns=2";
        assert_eq!(words(Phase::Apply), again);
    }

    #[test]
    fn autoboot_is_written_in_place_where_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("autoboot.txt");
        let names = || autoboot(&fs::read_to_string(&path).unwrap());
        assert!(overwrite(&path, &autoboot_text(Slot::A)).is_err(), "there is none");
        replace(dir.path(), "autoboot.txt", &autoboot_text(Slot::A)).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        for slot in [Slot::B, Slot::A] {
            overwrite(&path, &autoboot_text(slot)).unwrap();
            assert_eq!((names(), fs::metadata(&path).unwrap().ino()), (Some(slot), inode));
        }
        fs::write(&path, "# by hand\n").unwrap();
        assert!(overwrite(&path, &autoboot_text(Slot::B)).unwrap_err().to_string().contains("another length"));
        replace(dir.path(), "autoboot.txt", &autoboot_text(Slot::B)).unwrap();
        assert_eq!((names(), fs::read_dir(dir.path()).unwrap().count()), (Some(Slot::B), 1));
    }

    #[test]
    fn a_full_disk_is_nobodys_fault() {
        assert_eq!(of_disk(&io::Error::from(io::ErrorKind::StorageFull)).about, About::Room);
        assert_eq!(of_disk(&io::Error::from(io::ErrorKind::PermissionDenied)).about, About::Other);
    }
}
