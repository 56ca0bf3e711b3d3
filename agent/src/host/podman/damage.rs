//! Which of Podman's refusals mean that its storage is damaged. Learnt by damaging stores of Podman 4.3.1, one file after
//! another; the answers are in `captured/damage.ndjson`.
//!
//! Decides what is damaged, not what is done about it. A full, read-only or failing disk is none of this: mending would
//! only make it worse.

use super::http::PodmanError;

/// Words of the disk's own troubles.
const DISK: [&str; 6] = [
    "no space left on device",
    "input/output error",
    "read-only file system",
    "too many open files",
    "cannot allocate memory",
    "disk quota exceeded",
];

/// A container whose storage cannot be mounted, found or read.
const CONTAINER: [&str; 11] = [
    "mounting storage for container",
    "getting graph driver info",
    "reading information about layer",
    "getting container from store",
    "unable to determine if",
    "cannot chown run directory",
    "container not known",
    "layer not known",
    "image not known",
    "unmarshalling container",
    "open config.json",
];

/// An image whose layers or manifest cannot be found or read.
const IMAGE: [&str; 8] = [
    "nil pointer dereference",
    "layer not known",
    "file does not exist",
    "unexpected end of json input",
    "invalid character",
    "readlink ",
    "/overlay/",
    "locating item named",
];

/// A program that is not there or is not one.
const PROGRAM: [&str; 3] = ["not found in $path", "executable file", "exec format error"];

impl PodmanError {
    /// The container that was started or looked at is damaged.
    pub fn is_container_damage(&self) -> bool {
        self.says(&CONTAINER) && !self.is_not_found()
    }

    /// The image that was looked at, or of which a container was to be made, is damaged. An image that is not there is
    /// not damaged.
    pub fn is_image_damage(&self) -> bool {
        self.says(&IMAGE) && !self.is_not_found() && !self.is_image_unknown()
    }

    /// The program is missing or is no program.
    pub fn is_program_missing(&self) -> bool {
        self.says(&PROGRAM)
    }

    /// The pod's pause container is being started, or was not, by the start of another container of the pod.
    pub fn is_pod_between(&self) -> bool {
        self.says(&["cannot get namespace path unless container"])
    }

    fn says(&self, words: &[&str]) -> bool {
        let Self::Refused { message, cause, .. } = self else { return false };
        let text = format!("{message}\n{cause}").to_ascii_lowercase();
        let any = |words: &[&str]| words.iter().any(|word| text.contains(word));
        any(words) && !any(&DISK)
    }
}

/// What stands in the way of a Podman that does not even start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoreDamage {
    /// Its database of containers. Images are not in there.
    Database,
    /// Anything else of the store.
    Store,
}

/// Reads Podman's last words. `None` when they do not speak of a damaged store.
pub(super) fn store_damage(words: &str) -> Option<StoreDamage> {
    let text = words.to_ascii_lowercase();
    let any = |words: &[&str]| words.iter().any(|word| text.contains(word));
    // What the machine or its settings lack does no store any harm, and no new store would have it.
    let others = ["permission denied", "operation not permitted", "not support", "mismatch", "no such device", "busy"];
    if any(&DISK) || any(&others) {
        return None;
    }
    let database = ["bolt_state.db", "db.sql", "invalid database", "database disk image is malformed"];
    let more = ["file is not a database", "opening database", "missing config key", "unexpected fault address"];
    // Of a newer Podman, on a root that was put back: libpod/sqlite_state_internal.go of 5.4.
    let newer = ["database has schema version"];
    if any(&database) || any(&more) || any(&newer) {
        return Some(StoreDamage::Database);
    }
    let places = ["overlay-layers", "overlay-images", "overlay-containers", "/overlay", "/libpod"];
    let wrongs = ["not a directory", "is a directory", "no such file", "unexpected end of json", "invalid character"];
    (any(&places) && any(&wrongs)).then_some(StoreDamage::Store)
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;
    use serde_json::Value;

    use super::super::http::refusal;
    use super::*;

    fn captured() -> Vec<(String, PodmanError)> {
        let read = |line: &str| {
            let said: Value = serde_json::from_str(line).unwrap();
            let status = StatusCode::from_u16(said["response"].as_u64().unwrap().try_into().unwrap()).unwrap();
            (said["asked"].as_str().unwrap().to_owned(), refusal("do it".into(), status, line.as_bytes()))
        };
        include_str!("../captured/damage.ndjson").lines().map(read).collect()
    }

    #[test]
    fn every_captured_answer_of_a_damaged_store_is_told() {
        let all = captured();
        assert_eq!(all.len(), 22);
        for (asked, err) in all {
            let missing = err.is_image_unknown();
            let program = err.is_program_missing();
            match asked.as_str() {
                "start" => assert!(program != err.is_container_damage(), "{err}"),
                "inspect container" => assert!(err.is_container_damage(), "{err}"),
                "create" | "inspect image" => assert!(missing != err.is_image_damage(), "{asked}: {err}"),
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn other_troubles_are_no_damage() {
        let refused = |status: u16, message: &str, cause: &str| {
            let body = serde_json::json!({ "message": message, "cause": cause, "response": status }).to_string();
            refusal("do it".into(), StatusCode::from_u16(status).unwrap(), body.as_bytes())
        };
        for (status, message, cause) in [
            (500, "mounting storage for container 1: no space left on device", "no space left on device"),
            (500, "mounting storage for container 1: read /s/overlay: input/output error", "input/output error"),
            (500, "mkdir /s/overlay/x: read-only file system", "read-only file system"),
            (404, "no container with name or ID \"1\" found: no such container", "no such container"),
            (500, "crun: mount `/volumes/x` to `data`: Permission denied", "OCI permission denied"),
            (500, "container create: statfs /volumes/x: no such file or directory", "no such file or directory"),
        ] {
            let err = refused(status, message, cause);
            assert!(!err.is_container_damage() && !err.is_image_damage() && !err.is_program_missing(), "{err}");
            assert!(!err.is_pod_between(), "{err}");
        }
        // As Podman 4.3.1 said it once, of two containers of a pod that were started side by side.
        let words = "cannot get namespace path unless container b8587285276d is running: container is stopped";
        let between = refused(500, words, "container is stopped");
        assert!(between.is_pod_between() && !between.is_container_damage(), "{between}");
    }

    #[test]
    fn what_keeps_podman_from_starting_is_told() {
        use StoreDamage::{Database, Store};
        for (words, damage) in [
            ("Error: opening database /s/libpod/bolt_state.db: invalid database", Some(Database)),
            ("unexpected fault address 0x7f\nfatal error: fault\n[signal SIGSEGV", Some(Database)),
            ("container 1 missing config key in DB: internal libpod error", Some(Database)),
            ("Error: beginning transaction: file is not a database: /s/db.sql", Some(Database)),
            ("Error: mkdir /s/overlay: not a directory", Some(Store)),
            ("Error: mkdir /s/overlay-images: not a directory", Some(Store)),
            ("Error: creating runtime static files directory: mkdir /s/libpod: not a directory", Some(Store)),
            ("open /s/overlay-layers/layers.lock: is a directory", Some(Store)),
            ("Error: mkdir /s/overlay: no space left on device", None),
            (
                "Error: 'overlay' is not supported over extfs at \"/s/overlay\": backing file system is unsupported",
                None,
            ),
            ("Error: database graph driver \"vfs\" does not match \"overlay\": database configuration mismatch", None),
            ("Error: mounting /s/overlay: no such device", None),
            ("Error: open /s/overlay-layers/layers.lock: permission denied", None),
            ("Error: unable to create socket: listen unix /r/podman.sock: bind: address already in use", None),
            ("Error: crun: cgroups in hybrid mode not supported", None),
            ("Error: database has schema version 99 while this libpod version only supports version 1", Some(Database)),
            ("cannot start podman; is it installed and on PATH?", None),
        ] {
            assert_eq!(store_damage(words), damage, "{words}");
        }
    }
}
