//! Keeps what containers print: files that conmon replaces get a second name before they are lost, the oldest go when
//! there are too many, those of deleted apps after a while. And tells readers when there is more.
//!
//! One inotify handle for everything; nothing is polled. While no agent runs, conmon keeps each log within one file: what
//! it replaces then is lost, and the next file is marked so.

mod room;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

use bramble_contracts::Name;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::sync::watch;

use super::dropped::Dropped;
use super::files::{Named, Segment, app_dir, folders, named, segments};
use super::track::Ledger;
use super::{Budget, Places};
use crate::core::app::AppKey;

/// What conmon calls a file that is to replace another, behind that one's name.
const NEW: &str = ".tmp";
/// Behind the name of a file that is being given it.
const UNSURE: &str = ".new";
const READS_MAX: u32 = 256;
const SETTLE_TRIES: u32 = 50;
const SETTLE_PAUSE: Duration = Duration::from_micros(200);
/// Hours of running since the app was deleted, in its folder: no wall clock is needed to count them.
const GONE: &str = ".gone";

/// How often conmon has begun to replace a file, and has done it. It makes the new file beside the old one and renames it;
/// a rename can be seen a moment before it is told, but never before its beginning was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Replaced {
    begun: u32,
    done: u32,
}

/// The log of one container.
#[derive(Debug, Default)]
struct Shelf {
    /// By life: what was told since its file last got a second name.
    replaced: BTreeMap<u32, Replaced>,
    /// What it may take on the disk.
    bytes: u64,
}

#[derive(Debug)]
struct App {
    ticks: watch::Sender<u64>,
    shelves: BTreeMap<Name, Shelf>,
    hearing: Hearing,
}

/// How much of an app is told: each line costs a wake-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hearing {
    Files,
    Lines,
}

impl Hearing {
    fn flags(self) -> AddWatchFlags {
        let files = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
        match self {
            Self::Files => files,
            Self::Lines => files | AddWatchFlags::IN_MODIFY,
        }
    }
}

/// What has happened in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    Lines,
    Files,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Watched {
    Root,
    App(AppKey),
    Container(AppKey, Name),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Keeper {
    places: Places,
    budget: Budget,
    ledger: Ledger,
    inotify: Inotify,
    watched: BTreeMap<i32, Watched>,
    /// Places to look at.
    todo: BTreeMap<Watched, Change>,
    apps: BTreeMap<AppKey, App>,
}

/// Without its `Ord`, nix's descriptor is no key.
fn number(wd: WatchDescriptor) -> i32 {
    wd.as_raw()
}

impl Keeper {
    /// Takes in what there is.
    pub(super) fn new(places: Places, budget: Budget, ledger: Ledger) -> io::Result<Self> {
        crate::host::state::make_dir(&places.root).map_err(io::Error::other)?;
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let (watched, todo, apps) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut new = Self { places, budget, ledger, inotify, watched, todo, apps };
        let root = new.places.root.clone();
        new.watch(&root, Watched::Root, Hearing::Files.flags())?;
        new.look_everywhere();
        new.heard();
        Ok(new)
    }

    pub(super) fn inotify(&self) -> &Inotify {
        &self.inotify
    }

    /// Has something happened that was noted and not looked at?
    pub(super) fn is_due(&self) -> bool {
        !self.todo.is_empty()
    }

    /// Takes in what has happened. While it does, more may: then it is due again. Says whether there was anything but
    /// new lines.
    pub(super) fn heard(&mut self) -> Change {
        self.note();
        let todo = std::mem::take(&mut self.todo);
        // What may be replaced again at any moment comes first; what takes long after that.
        for (place, change) in &todo {
            match (place, change) {
                (Watched::Root, _) => self.look_everywhere(),
                (Watched::App(key), _) => self.look_at_app(key),
                (Watched::Container(key, container), Change::Files) => self.keep(key, container),
                (Watched::Container(..), Change::Lines) => {}
            }
        }
        for (place, change) in &todo {
            let Watched::Container(key, container) = place else { continue };
            if *change == Change::Files {
                self.drop_oldest(key, container);
            }
            self.tell(key);
        }
        todo.into_values().max().unwrap_or(Change::Lines)
    }

    /// Brings one app up to date, for somebody who reads it now.
    pub(super) fn look(&mut self, key: &AppKey) {
        self.look_at_app(key);
    }

    /// Hears of every change of an app's logs from now on.
    pub(super) fn follow(&mut self, key: &AppKey) -> watch::Receiver<u64> {
        let receiver = self.app(key).ticks.subscribe();
        self.hear(key, Hearing::Lines);
        receiver
    }

    /// Drops the logs of apps that were deleted long ago. To be called every hour.
    pub(super) fn hour(&mut self) {
        for (key, dir) in self.app_dirs() {
            let gone = dir.join(GONE);
            let hours = fs::read_to_string(&gone).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
            let done = if self.places.is_known(&key) {
                if hours == 0 { Ok(()) } else { fs::remove_file(&gone) }
            } else if hours >= self.budget.deleted_hours {
                tracing::info!(app = %key, "the logs of a deleted app are dropped");
                fs::remove_dir_all(&dir)
            } else {
                fs::write(&gone, (hours + 1).to_string())
            };
            if let Err(err) = done {
                tracing::warn!(dir = %dir.display(), %err, "the logs of a deleted app cannot be dropped");
            }
        }
        self.look_everywhere();
    }

    fn events(&self) -> Vec<InotifyEvent> {
        let mut all = Vec::new();
        // More than this comes while it is read; it is read the next time.
        for _ in 0..READS_MAX {
            match self.inotify.read_events() {
                Ok(events) => all.extend(events),
                Err(nix::errno::Errno::EAGAIN) => break,
                Err(err) => {
                    tracing::warn!(%err, "inotify fails");
                    break;
                }
            }
        }
        all
    }

    /// Notes what has happened: which places to look at, and how often files were replaced.
    fn note(&mut self) {
        for event in self.events() {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                // What was not told may be replaced files: what was counted is not true any more.
                self.apps.values_mut().flat_map(|app| app.shelves.values_mut()).for_each(|s| s.replaced.clear());
                self.todo.insert(Watched::Root, Change::Files);
                continue;
            }
            let wd = number(event.wd);
            if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                if let Some(place) = self.watched.remove(&wd) {
                    self.make_again(&place);
                }
                continue;
            }
            let Some(place) = self.watched.get(&wd).cloned() else { continue };
            let lines = event.mask.contains(AddWatchFlags::IN_MODIFY);
            let change = if lines { Change::Lines } else { Change::Files };
            let name = event.name.as_ref().and_then(|name| name.to_str());
            if let (Watched::Container(key, container), Some(name)) = (&place, name) {
                let shelf = self.app(key).shelves.entry(container.clone()).or_default();
                let new = name.strip_suffix(NEW).and_then(Named::parse);
                if let (Some(Named::Active { life }), true) = (new, event.mask.contains(AddWatchFlags::IN_CREATE)) {
                    shelf.replaced.entry(life).or_default().begun += 1;
                    continue;
                }
                if name.ends_with(UNSURE) || matches!(Named::parse(name), Some(Named::Kept { .. })) {
                    // Our own doing.
                    continue;
                }
                let moved = event.mask.contains(AddWatchFlags::IN_MOVED_TO);
                if let (Some(Named::Active { life }), true) = (Named::parse(name), moved) {
                    shelf.replaced.entry(life).or_default().done += 1;
                }
            }
            self.todo.entry(place).and_modify(|all| *all = change.max(*all)).or_insert(change);
        }
    }

    /// Somebody has removed a folder of logs. Without it conmon ends when its file is full, and no container starts.
    fn make_again(&mut self, place: &Watched) {
        let root = &self.places.root;
        let dir = match place {
            Watched::Root => root.clone(),
            Watched::App(key) | Watched::Container(key, _) if !self.places.is_known(key) => return,
            Watched::App(key) => app_dir(root, key),
            Watched::Container(key, container) => app_dir(root, key).join(container.as_str()),
        };
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        let made = made.and_then(|()| self.watch(&self.places.root.clone(), Watched::Root, Hearing::Files.flags()));
        match made {
            Ok(()) => {
                tracing::warn!(dir = %dir.display(), "somebody has removed this folder of logs; it is made again");
            }
            Err(err) => {
                tracing::error!(dir = %dir.display(), %err, "a folder of logs is gone and cannot be made again");
            }
        }
        self.todo.insert(Watched::Root, Change::Files);
    }

    fn app(&mut self, key: &AppKey) -> &mut App {
        let new = || App { ticks: watch::Sender::new(0), shelves: BTreeMap::new(), hearing: Hearing::Files };
        self.apps.entry(key.clone()).or_insert_with(new)
    }

    fn app_dirs(&self) -> Vec<(AppKey, PathBuf)> {
        let found = folders::<Text>(&self.places.root).unwrap_or_else(|err| {
            tracing::warn!(dir = %self.places.root.display(), %err, "the logs cannot be looked at");
            Vec::new()
        });
        found.into_iter().filter_map(|(Text(name), dir)| Some((AppKey::parse(&name)?, dir))).collect()
    }

    fn look_everywhere(&mut self) {
        let there: Vec<AppKey> = self.app_dirs().into_iter().map(|(key, _)| key).collect();
        self.apps.retain(|key, app| there.contains(key) || app.ticks.receiver_count() > 0);
        let dirs = self.places.root.clone();
        self.ledger().retain(|dir, _| dir.starts_with(&dirs) && dir.exists());
        for key in there {
            self.look_at_app(&key);
        }
    }

    fn look_at_app(&mut self, key: &AppKey) {
        let dir = app_dir(&self.places.root, key);
        // Watched first, so that what comes between is not missed.
        let watched = self.watch(&dir, Watched::App(key.clone()), Hearing::Files.flags());
        let found = watched.and_then(|()| folders::<Name>(&dir));
        let found = match found {
            Ok(found) => found,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return,
            Err(err) => return tracing::warn!(dir = %dir.display(), %err, "logs cannot be looked at"),
        };
        let flags = self.app(key).hearing.flags();
        for (container, dir) in found {
            if let Err(err) = self.watch(&dir, Watched::Container(key.clone(), container.clone()), flags) {
                tracing::warn!(dir = %dir.display(), %err, "a log cannot be watched");
            }
            self.keep(key, &container);
            self.drop_oldest(key, &container);
        }
        self.tell(key);
    }

    fn watch(&mut self, dir: &Path, what: Watched, flags: AddWatchFlags) -> io::Result<()> {
        let wd = self.inotify.add_watch(dir, flags)?;
        self.watched.insert(number(wd), what);
        Ok(())
    }

    fn hear(&mut self, key: &AppKey, hearing: Hearing) {
        let app = self.app(key);
        if app.hearing != hearing {
            app.hearing = hearing;
            self.look_at_app(key);
        }
    }

    fn tell(&mut self, key: &AppKey) {
        let app = self.app(key);
        if app.ticks.receiver_count() > 0 {
            app.ticks.send_modify(|tick| *tick = tick.wrapping_add(1));
        } else {
            self.hear(key, Hearing::Files);
        }
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, BTreeMap<PathBuf, Dropped>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives second names to files that have none.
    fn keep(&mut self, key: &AppKey, container: &Name) {
        let dir = app_dir(&self.places.root, key).join(container.as_str());
        if let Err(err) = self.try_keep(key, container, &dir) {
            tracing::warn!(dir = %dir.display(), %err, "a log cannot be kept; it is tried again with its next file");
        }
    }

    fn try_keep(&mut self, key: &AppKey, container: &Name, dir: &Path) -> io::Result<()> {
        let kept = segments(dir)?;
        let oldest = kept.first().map(Segment::key);
        self.ledger().entry(dir.to_owned()).or_insert_with(|| Dropped::before(oldest));
        for (file, path) in named(dir)? {
            let Named::Active { life } = file else { continue };
            let last = kept.iter().rfind(|segment| segment.life == life);
            let Some(inode) = inode(&path) else { continue };
            if last.is_some_and(|last| self::inode(&last.path) == Some(inode)) {
                continue;
            }
            let number = last.map_or(1, |last| last.number.saturating_add(1));
            // Readers must not see it before it is known whether something is missing before it.
            let made = dir.join(format!("{}{UNSURE}", Named::Kept { life, number, gap: false }.name()));
            match fs::remove_file(&made) {
                Ok(()) => {}
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => return Err(err),
            }
            fs::hard_link(&path, &made)?;
            let (replaced, newest) = self.settle(key, container, life, || self::inode(&made) == self::inode(&path));
            let left = if newest { 0 } else { replaced.saturating_sub(1) };
            let shelf = self.app(key).shelves.entry(container.clone()).or_default();
            shelf.replaced.insert(life, Replaced { begun: left, done: left });
            let gap = last.is_some() && missed(replaced, newest);
            fs::rename(&made, dir.join(Named::Kept { life, number, gap }.name()))?;
        }
        Ok(())
    }

    /// How often a life's file was replaced up to a moment, and whether `newest` held then.
    fn settle(&mut self, key: &AppKey, container: &Name, life: u32, newest: impl Fn() -> bool) -> (u32, bool) {
        let told = |keeper: &mut Self| {
            keeper.note();
            let shelf = keeper.app(key).shelves.entry(container.clone()).or_default();
            shelf.replaced.get(&life).copied().unwrap_or_default()
        };
        for _ in 0..SETTLE_TRIES {
            let before = told(self);
            let newest = newest();
            if told(self) == before && before.begun <= before.done {
                return (before.done, newest);
            }
            // One is under way.
            std::thread::sleep(SETTLE_PAUSE);
        }
        (u32::MAX, true)
    }
}

/// A folder's name as it is.
struct Text(String);

impl std::str::FromStr for Text {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).map(|meta| meta.ino()).ok()
}

/// A file got its second name after conmon had replaced the life's file so often since the last one did; `newest`: and
/// it still is the life's file. May one between have been missed?
fn missed(replaced: u32, newest: bool) -> bool {
    match replaced {
        // Nobody watched.
        0 => true,
        1 => false,
        // Then the second time was after this.
        2 => newest,
        3.. => true,
    }
}

#[cfg(test)]
mod tests {
    use super::room::sized;
    use super::*;
    use crate::host::clock;
    use crate::host::logs::files::reserve;

    const SEGMENT: u64 = 64 * 1024;
    const CONTAINER: u64 = 6 * SEGMENT;

    struct Here {
        dir: tempfile::TempDir,
        key: AppKey,
        name: Name,
        ledger: Ledger,
    }

    impl Here {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self {
                dir,
                key: AppKey::parse("default.web").unwrap(),
                name: "web".parse().unwrap(),
                ledger: Ledger::default(),
            }
        }

        fn keeper(&self, total: u64) -> Keeper {
            let places = Places::below(self.dir.path());
            let budget = Budget { container: CONTAINER, total, deleted_hours: 2 };
            Keeper::new(places, budget, self.ledger.clone()).unwrap()
        }

        fn reserve(&self, key: &str) -> PathBuf {
            reserve(&Places::below(self.dir.path()).root, &AppKey::parse(key).unwrap(), &self.name).unwrap()
        }

        /// What conmon does when a file is full.
        fn replace(path: &Path, text: &str) {
            let tmp = path.with_extension("log.tmp");
            fs::write(&tmp, text).unwrap();
            fs::rename(tmp, path).unwrap();
        }

        fn names(path: &Path) -> Vec<String> {
            let all = segments(path.parent().unwrap()).unwrap();
            all.iter().map(|s| s.path.file_name().unwrap().to_string_lossy().into_owned()).collect()
        }
    }

    fn full(n: u64) -> String {
        let line = format!("1970-01-01T00:00:01.000000000+00:00 stdout F {n}\n");
        line.repeat(usize::try_from(SEGMENT).unwrap() / line.len())
    }

    #[test]
    fn what_is_replaced_is_kept_and_what_was_missed_is_marked() {
        let here = Here::new();
        let path = here.reserve("default.web");
        let mut keeper = here.keeper(u64::MAX);
        fs::write(&path, "a\n").unwrap();
        for text in ["b\n", "c\n"] {
            Here::replace(&path, text);
            keeper.heard();
        }
        assert_eq!(Here::names(&path), ["000001.000001", "000001.000002", "000001.000003"]);
        // Twice between two looks.
        Here::replace(&path, "d\n");
        Here::replace(&path, "e\n");
        keeper.heard();
        assert_eq!(Here::names(&path).last().unwrap(), "000001.000004.gap");
        // While no agent ran, which may have been more often than once.
        drop(keeper);
        Here::replace(&path, "f\n");
        let mut keeper = here.keeper(u64::MAX);
        assert_eq!(Here::names(&path).last().unwrap(), "000001.000005.gap");
        Here::replace(&path, "g\n");
        keeper.heard();
        assert_eq!(Here::names(&path).last().unwrap(), "000001.000006");
        let kept = segments(path.parent().unwrap()).unwrap();
        let texts: String = kept.iter().map(|s| fs::read_to_string(&s.path).unwrap()).collect();
        assert_eq!(texts, "a\nb\nc\ne\nf\ng\n");
    }

    #[test]
    fn missed_is_only_what_may_have_been() {
        let cases = [
            (0, true, true),
            (1, true, false),
            (1, false, false),
            (2, true, true),
            (2, false, false),
            (3, false, true),
        ];
        for (replaced, newest, is) in cases {
            assert_eq!(missed(replaced, newest), is, "{replaced} {newest}");
        }
    }

    #[test]
    fn the_oldest_files_go_and_their_lines_are_counted_for_readers() {
        let here = Here::new();
        let path = here.reserve("default.web");
        let mut keeper = here.keeper(u64::MAX);
        here.ledger.lock().unwrap().get_mut(path.parent().unwrap()).unwrap().read(clock::uptime());
        fs::write(&path, full(0)).unwrap();
        for n in 1..10 {
            Here::replace(&path, &full(n));
            keeper.heard();
        }
        let left = segments(path.parent().unwrap()).unwrap();
        assert_eq!(left.iter().map(|s| s.number).collect::<Vec<_>>(), [8, 9, 10]);
        let bytes: u64 = left.iter().map(|s| fs::metadata(&s.path).unwrap().len()).sum();
        assert!(bytes <= CONTAINER, "{bytes}");
        let per_file = full(0).lines().count() as u64;
        let reader = bramble_contracts::v1::LogPlace { life: 1, segment: 3, lines: 5, ..Default::default() };
        let ledger = here.ledger.lock().unwrap();
        assert_eq!(ledger[path.parent().unwrap()].between(reader, (1, 8)), Some(per_file - 5 + 4 * per_file));
    }

    #[test]
    fn all_logs_together_stay_within_their_bound() {
        let here = Here::new();
        let mut keeper = here.keeper(4 * SEGMENT);
        let paths = ["default.a", "default.b", "other.c"].map(|key| here.reserve(key));
        keeper.heard();
        for n in 0..4 {
            for path in &paths {
                Here::replace(path, &full(n));
                keeper.heard();
            }
        }
        let sizes =
            |path: &PathBuf| -> u64 { sized(segments(path.parent().unwrap()).unwrap()).iter().map(|(_, b)| b).sum() };
        let total: u64 = paths.iter().map(sizes).sum();
        assert!(total <= 4 * SEGMENT, "{total}");
        for path in &paths {
            assert!(fs::read_to_string(path).unwrap().ends_with("F 3\n"), "the newest of each is there");
            assert!(!Here::names(path).is_empty());
        }
    }

    #[test]
    fn logs_of_a_deleted_app_go_after_a_while_of_running_and_only_of_a_deleted_one() {
        let here = Here::new();
        let path = here.reserve("default.web");
        let dir = path.parent().unwrap().parent().unwrap().to_owned();
        let record = here.dir.path().join("records/default.web.record");
        fs::create_dir_all(record.parent().unwrap()).unwrap();
        fs::write(&record, "x").unwrap();
        let mut keeper = here.keeper(u64::MAX);
        (0..5).for_each(|_| keeper.hour());
        assert!(dir.exists());
        fs::remove_file(&record).unwrap();
        keeper.hour();
        fs::write(&record, "back").unwrap();
        keeper.hour();
        assert!(!dir.join(GONE).exists(), "it has come back");
        fs::remove_file(&record).unwrap();
        keeper.hour();
        drop(keeper);
        let mut keeper = here.keeper(u64::MAX);
        keeper.hour();
        assert!(dir.exists());
        keeper.hour();
        assert!(!dir.exists());
    }

    #[test]
    fn folders_that_somebody_removes_are_made_again_for_apps_that_are_there() {
        let here = Here::new();
        let path = here.reserve("default.web");
        let record = here.dir.path().join("records/default.web.record");
        fs::create_dir_all(record.parent().unwrap()).unwrap();
        fs::write(&record, "x").unwrap();
        let mut keeper = here.keeper(u64::MAX);
        let root = Places::below(here.dir.path()).root;
        for gone in [path.parent().unwrap(), &root] {
            fs::remove_dir_all(gone).unwrap();
            keeper.heard();
            while keeper.is_due() {
                keeper.heard();
            }
            Here::replace(&path, "again\n");
            keeper.heard();
            assert!(!Here::names(&path).is_empty(), "{}", gone.display());
        }
        fs::remove_file(&record).unwrap();
        fs::remove_dir_all(path.parent().unwrap().parent().unwrap()).unwrap();
        keeper.heard();
        assert!(!path.parent().unwrap().exists(), "nobody needs it any more");
    }

    #[test]
    fn readers_are_told_of_lines_and_of_new_containers_and_nobody_else_is() {
        let here = Here::new();
        let mut keeper = here.keeper(u64::MAX);
        let mut ticks = keeper.follow(&here.key);
        ticks.mark_unchanged();
        let path = here.reserve("default.web");
        keeper.heard();
        assert!(ticks.has_changed().unwrap(), "a new container");
        ticks.mark_unchanged();
        fs::write(&path, "a line\n").unwrap();
        keeper.heard();
        assert!(ticks.has_changed().unwrap(), "a line");
        drop(ticks);
        fs::write(&path, "more\n").unwrap();
        keeper.heard();
        fs::write(&path, "yet more\n").unwrap();
        assert!(keeper.events().is_empty(), "nobody listens, so nobody is woken");
    }
}
