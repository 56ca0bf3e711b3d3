//! Damaged storage: what of one app is broken, how often it was mended, and when it may be mended again.
//!
//! Decides the ladder: a broken container is made anew; when that does not help, its image is fetched anew; and neither is
//! done without pause or end. Recognises no damage: `host` reads Podman's answers. The store as a whole is not an app's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bramble_contracts::Name;
use bramble_contracts::v1::ImagePullPolicy;

use super::app::{App, Image};
use super::backoff::Backoff;
use super::have::{Have, SeenState};
use super::report::cut;

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Damage {
    /// The container, or the part of the image it stands on.
    Container,
    /// The image.
    Image,
    /// A start that was cut off: the container is of no use, and its image has nothing to do with it.
    Start,
    /// The program is missing, or is no program: a mistake in the deployment, unless the image's files are examined and
    /// found damaged.
    Program,
}

/// What one look found broken, by what it is and with Podman's words for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wounds {
    /// Podman's ids of containers.
    pub containers: BTreeMap<String, String>,
    /// References of images.
    pub images: BTreeMap<String, String>,
}

/// What is to be done about a damaged image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mending<'a> {
    /// Fetch it anew.
    Now,
    /// The same, but not before this uptime.
    At(Duration, &'a str),
    /// Only people can.
    ByHand(&'a str),
    /// It was tried often enough.
    GivenUp(&'a str),
}

/// Whether the files of a suspect were looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exam {
    /// Not yet; after so many failed attempts not before this uptime.
    Due(u32, Duration),
    Done,
}

/// What an examination of an image's files said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding<'a> {
    /// They are whole.
    Whole,
    /// What is wrong with them.
    Damaged(&'a str),
    /// They could not be examined.
    Unknown,
}

/// Pauses before the second and later attempts; the first is made at once.
const PAUSES: Backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(3600));
/// So many attempts in a row, and then only people can help.
const TRIES_MAX: u32 = 5;
/// What was mended is told for so long.
const TOLD: Duration = Duration::from_secs(24 * 3600);
const NOTES_MAX: usize = 4;
/// So much of Podman's words is told.
const WHY_BYTES: usize = 160;

/// Something broken, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Case {
    why: String,
    tries: u32,
    next: Duration,
    open: bool,
    /// A look shows it, so a look shows when it is over.
    visible: bool,
}

impl Case {
    fn new() -> Self {
        Self { why: String::new(), tries: 0, next: Duration::ZERO, open: false, visible: false }
    }

    fn due(&self, now: Duration) -> bool {
        self.open && self.next <= now && self.tries <= TRIES_MAX
    }

    /// Takes note of damage. True when it is news.
    fn hurt(&mut self, why: &str, now: Duration) -> bool {
        if self.open {
            return false;
        }
        self.tries = self.tries.saturating_add(1);
        self.next = now + PAUSES.delay(self.tries - 1);
        self.open = true;
        why.clone_into(&mut self.why);
        true
    }
}

/// All of it, for one app.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healing {
    /// By name in the deployment; the Podman id that was found broken last.
    containers: BTreeMap<Name, (String, Case)>,
    /// By reference.
    images: BTreeMap<String, Case>,
    /// Images under suspicion, and whether their files have been examined since.
    suspects: BTreeMap<String, Exam>,
    /// Images whose files were examined and found damaged: what is made of them is of no use.
    condemned: BTreeSet<String>,
    notes: Vec<(Duration, String)>,
}

impl Healing {
    /// A step met damage.
    pub fn met(&mut self, damage: Damage, app: &App, name: &Name, id: &str, why: &str, now: Duration) {
        let image = app.container(name).map(|view| app.reference(view.image));
        match (damage, image) {
            (Damage::Container, _) => self.container(app, name, id, why, now),
            (Damage::Start, _) => {
                self.remake(name, id, why, now);
            }
            (Damage::Image, Some(image)) => self.image(&image, why, now),
            (Damage::Program, Some(image)) => self.suspect(&image),
            (Damage::Image | Damage::Program, None) => {}
        }
    }

    /// What is made of this image fails again and again: it may be the image.
    pub fn suspect(&mut self, image: &str) {
        if !self.suspects.contains_key(image) {
            self.suspects.insert(image.to_owned(), Exam::Due(0, Duration::ZERO));
        }
    }

    /// Images whose files are to be examined now: each once, as long as nothing changes.
    pub fn exams(&self, now: Duration) -> impl Iterator<Item = &String> {
        let due = move |exam: &Exam| matches!(exam, Exam::Due(_, next) if *next <= now);
        self.suspects.iter().filter(move |(_, exam)| due(exam)).map(|(image, _)| image)
    }

    /// The files of an image were examined.
    pub fn examined(&mut self, image: &str, finding: Finding<'_>, now: Duration) {
        let tries = match self.suspects.get(image) {
            Some(Exam::Due(tries, _)) => tries + 1,
            Some(Exam::Done) | None => 1,
        };
        let exam = match finding {
            Finding::Unknown if tries < TRIES_MAX => Exam::Due(tries, now + PAUSES.delay(tries)),
            Finding::Unknown | Finding::Whole | Finding::Damaged(_) => Exam::Done,
        };
        self.suspects.insert(image.to_owned(), exam);
        if let Finding::Damaged(why) = finding {
            self.condemned.insert(image.to_owned());
            self.image(image, why, now);
        }
    }

    /// A container is broken. The same one again and again is one finding; a new one that is broken too points at the
    /// image.
    fn container(&mut self, app: &App, name: &Name, id: &str, why: &str, now: Duration) {
        let again = self.remake(name, id, why, now);
        let image = app.container(name).map(|view| app.reference(view.image));
        if let Some(image) = image.filter(|image| again && !self.condemned.contains(image)) {
            self.image(&image, why, now);
        }
    }

    /// A container is to be made anew. True when that was tried before.
    fn remake(&mut self, name: &Name, id: &str, why: &str, now: Duration) -> bool {
        let (known, case) = self.containers.entry(name.clone()).or_insert_with(|| (String::new(), Case::new()));
        if known == id {
            return false;
        }
        id.clone_into(known);
        case.open = false;
        case.hurt(why, now);
        let tries = case.tries;
        let what = if tries > TRIES_MAX {
            format!("was made anew {TRIES_MAX} times without success and is left alone, look at the disk")
        } else {
            "is made anew, its volumes stay".to_owned()
        };
        self.note(now, format!("container {name} {what}; it was found damaged: {}", cut(why, WHY_BYTES)));
        tries > 1
    }

    fn image(&mut self, reference: &str, why: &str, now: Duration) {
        let case = self.images.entry(reference.to_owned()).or_insert_with(Case::new);
        if !case.hurt(why, now) {
            return;
        }
        let what = if is_local(reference) {
            "cannot be pulled, remove it and load it again".to_owned()
        } else if case.tries > TRIES_MAX {
            format!("was pulled again {TRIES_MAX} times without success and is left alone, look at the disk")
        } else {
            "is pulled again as soon as it is needed".to_owned()
        };
        self.note(now, format!("image {reference} {what}; it was found damaged: {}", cut(why, WHY_BYTES)));
    }

    /// Takes in one look; `app` is the spec in charge.
    pub fn saw(&mut self, have: &Have, app: Option<&App>, now: Duration) {
        self.notes.retain(|(at, _)| now.saturating_sub(*at) < TOLD);
        for (reference, why) in &have.wounds.images {
            self.image(reference, why, now);
            if let Some(case) = self.images.get_mut(reference) {
                case.visible = true;
            }
        }
        for (reference, case) in &mut self.images {
            if case.visible && !have.wounds.images.contains_key(reference) {
                (case.open, case.visible) = (false, false);
            }
        }
        let Some(app) = app else { return };
        let hash = app.hash().to_string();
        for seen in have.ours.iter().filter(|seen| seen.hash == hash) {
            // What runs is left alone, whatever its storage looks like: it may run for years.
            let runs = matches!(seen.state, SeenState::Running | SeenState::Paused | SeenState::Unsettled);
            let image = app.container(&seen.name).map(|view| app.reference(view.image)).unwrap_or_default();
            let stands_on =
                (!is_local(&image) && self.condemned.contains(&image)).then(|| "its image is damaged".to_owned());
            if let Some(why) = have.wounds.containers.get(&seen.id).cloned().or(stands_on).filter(|_| !runs) {
                self.container(app, &seen.name, &seen.id, &why, now);
            }
        }
    }

    /// An image was fetched anew: whether that helped is seen when it is used.
    pub fn mended(&mut self, reference: &str) {
        if let Some(case) = self.images.get_mut(reference) {
            case.open = false;
        }
        self.suspects.remove(reference);
        self.condemned.remove(reference);
    }

    /// A container has stayed up: what it is made of is whole.
    pub fn proven(&mut self, app: &App, name: &Name) {
        self.containers.remove(name);
        if let Some(view) = app.container(name) {
            self.images.remove(&app.reference(view.image));
        }
    }

    /// Containers that are to be made anew now, with the reason.
    pub fn due(&self, now: Duration) -> BTreeMap<String, String> {
        let due = self.containers.values().filter(|(_, case)| case.due(now));
        due.map(|(id, case)| (id.clone(), case.why.clone())).collect()
    }

    /// How it stands with a damaged image; `None` when it is not known to be damaged.
    pub fn mending(&self, image: &Image, now: Duration) -> Option<Mending<'_>> {
        let case = self.images.get(&image.reference).filter(|case| case.open)?;
        Some(if image.local || image.policy == ImagePullPolicy::Never {
            Mending::ByHand(&case.why)
        } else if case.tries > TRIES_MAX {
            Mending::GivenUp(&case.why)
        } else if case.next > now {
            Mending::At(case.next, &case.why)
        } else {
            Mending::Now
        })
    }

    /// When another container is to be made anew, or an image examined.
    pub fn next(&self, now: Duration) -> Option<Duration> {
        let open = self.containers.values().map(|(_, case)| case).filter(|case| case.open && case.tries <= TRIES_MAX);
        let exams = self.suspects.values().filter_map(|exam| match exam {
            Exam::Due(_, next) => Some(*next),
            Exam::Done => None,
        });
        open.map(|case| case.next).chain(exams).filter(|next| *next > now).min()
    }

    /// What was found and done, for people.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        self.notes.iter().map(|(_, text)| text.as_str())
    }

    /// This spec takes charge: what was told of the one before stays told.
    pub fn inherit(&mut self, past: &Self) {
        let known = std::mem::take(&mut self.notes);
        let new = known.into_iter().filter(|(_, text)| past.notes.iter().all(|(_, told)| told != text));
        self.notes = past.notes.iter().cloned().chain(new).collect();
        let over = self.notes.len().saturating_sub(NOTES_MAX);
        self.notes.drain(..over);
    }

    /// Another spec is in charge.
    pub fn turned(self) -> Self {
        Self { images: self.images, notes: self.notes, ..Self::default() }
    }

    fn note(&mut self, now: Duration, text: String) {
        self.notes.push((now, text));
        let over = self.notes.len().saturating_sub(NOTES_MAX);
        self.notes.drain(..over);
    }
}

/// No registry gives it back.
pub fn is_local(reference: &str) -> bool {
    reference.starts_with("localhost/")
}

#[cfg(test)]
mod tests {
    use bramble_contracts::v1::DesiredApp;
    use serde_json::json;

    use super::*;

    fn app() -> App {
        let main = json!({ "name": "web", "image": "reg/web:1" });
        let spec = json!({ "selector": { "devices": ["pi-1"] }, "containers": [main] });
        let deployment = json!({ "metadata": { "name": "web" }, "spec": spec });
        let desired = json!({ "uid": "a".repeat(20), "revision": 1, "deployment": deployment, "pins": [] });
        App::new(serde_json::from_value::<DesiredApp>(desired).unwrap())
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_container_comes_first_then_its_image_and_pauses_grow() {
        let (app, name, mut healing) = (app(), "web".parse().unwrap(), Healing::default());
        healing.met(Damage::Container, &app, &name, "c1", "layer not known", secs(0));
        healing.met(Damage::Container, &app, &name, "c1", "layer not known", secs(1));
        assert_eq!(healing.due(secs(1)).len(), 1, "at once");
        assert_eq!(healing.mending(&app.images()[0], secs(1)), None, "the image may be whole");
        healing.met(Damage::Container, &app, &name, "c2", "layer not known", secs(2));
        assert_eq!(healing.mending(&app.images()[0], secs(2)), Some(Mending::Now));
        assert!(healing.due(secs(2)).is_empty() && healing.next(secs(2)) == Some(secs(62)), "not again at once");
        healing.mended("reg/web:1");
        assert_eq!(healing.due(secs(62)).len(), 1);
        healing.met(Damage::Container, &app, &name, "c3", "layer not known", secs(63));
        assert_eq!(healing.mending(&app.images()[0], secs(63)), Some(Mending::At(secs(123), "layer not known")));
        for (n, id) in ["c4", "c5", "c6"].iter().enumerate() {
            healing.met(Damage::Container, &app, &name, id, "layer not known", secs(10_000 * (n as u64 + 1)));
        }
        assert!(healing.due(secs(1_000_000)).is_empty(), "people are needed now");
        assert!(healing.notes().any(|note| note.contains("without success")));
        healing.proven(&app, &name);
        assert_eq!(healing.mending(&app.images()[0], secs(1_000_001)), None, "what works is whole");
    }

    #[test]
    fn starts_that_are_cut_off_say_nothing_of_the_image() {
        let (app, name, mut healing) = (app(), "web".parse().unwrap(), Healing::default());
        for id in ["c1", "c2", "c3"] {
            healing.met(Damage::Start, &app, &name, id, "killed", secs(0));
        }
        assert_eq!(healing.mending(&app.images()[0], secs(0)), None);
        assert_eq!((healing.due(secs(0)).len(), healing.due(secs(120)).len()), (0, 1), "and they get rarer");
    }

    #[test]
    fn a_program_that_is_missing_makes_the_image_suspect_once() {
        let (app, name, mut healing) = (app(), "web".parse().unwrap(), Healing::default());
        healing.met(Damage::Program, &app, &name, "c1", "not found", secs(0));
        assert_eq!(healing.exams(secs(0)).count(), 1);
        healing.examined("reg/web:1", Finding::Unknown, secs(0));
        assert_eq!((healing.exams(secs(0)).count(), healing.next(secs(0))), (0, Some(secs(60))));
        healing.examined("reg/web:1", Finding::Whole, secs(60));
        healing.met(Damage::Program, &app, &name, "c1", "not found", secs(61));
        assert_eq!(
            (healing.exams(secs(99_999)).count(), healing.notes().count()),
            (0, 0),
            "a mistake of the deployment"
        );
    }

    #[test]
    fn what_is_told_is_bounded_and_ends() {
        let (app, mut healing) = (app(), Healing::default());
        for n in 0..20 {
            healing.image(&format!("reg/{n}"), "x", secs(n));
        }
        assert_eq!(healing.notes().count(), NOTES_MAX);
        let record = crate::core::record::Record::new(app.key().clone());
        let nothing = Have::sort(crate::core::have::Observed::default(), &record);
        healing.saw(&nothing, Some(&app), secs(40) + TOLD);
        assert_eq!(healing.notes().count(), 0);
    }
}
