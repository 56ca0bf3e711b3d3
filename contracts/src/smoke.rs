//! Smoke checks: the few questions that tell whether something works, in one name and one wording everywhere.
//!
//! Devices ask them of their apps and of themselves, the coordinator of its own readiness, `bramble doctor` of all
//! that lies between an operator and the fleet. Decides what a check is called, how an answer reads, and what a suite
//! of them comes to. Deliberately does not: ask; whoever can reach the other side does, in its own time.
//!
//! A check and its answer read as one sentence: `HTTP GET :80/health answered 503 Service Unavailable`.

use std::{fmt, io};

use serde::{Deserialize, Serialize};

/// One question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Check {
    /// Does a GET answer 200 to 399?
    HttpHealthy {
        /// A URL, or port and path where the host is understood: `:80/health`.
        at: String,
    },
    /// Does a container run, and stay up?
    ContainerReady {
        /// Its name in the deployment.
        container: String,
    },
    /// Has a bucket of the store this key?
    NatsKvKeyExists {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
    },
    /// Does a connection open?
    TcpReachable {
        /// Host and port, or the port alone where the host is understood: `:5432`.
        at: String,
    },
    /// Does a command end with 0?
    CommandSucceeds {
        /// The command and its arguments.
        command: String,
    },
    /// Is something so, of which only the one who is asked can know?
    Holds {
        /// What: a noun, such as `disk` or `index`.
        what: String,
    },
}

impl Check {
    /// [`Check::Holds`].
    pub fn holds(what: impl Into<String>) -> Self {
        Self::Holds { what: what.into() }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HttpHealthy { at } => write!(f, "HTTP GET {at}"),
            Self::ContainerReady { container } => write!(f, "container {container}"),
            Self::NatsKvKeyExists { bucket, key } => write!(f, "NATS key {bucket}/{key}"),
            Self::TcpReachable { at } => write!(f, "TCP {at}"),
            Self::CommandSucceeds { command } => write!(f, "command {command}"),
            Self::Holds { what } => f.write_str(what),
        }
    }
}

/// How a check went; the order is the order of concern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum CheckState {
    /// It was not asked, because one before it failed.
    NotAsked,
    /// It is so.
    Passed,
    /// It works, and somebody should look at it.
    Look,
    /// It is not so.
    Failed,
}

impl CheckState {
    /// For people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::NotAsked => "not asked",
            Self::Passed => "ok",
            Self::Look => "look",
            Self::Failed => "failed",
        }
    }
}

/// A check and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct CheckResult {
    /// What was asked.
    pub check: Check,
    /// How it went.
    pub state: CheckState,
    /// How long the answer took, in milliseconds; absent where nothing was waited for.
    #[serde(default)]
    pub took_ms: Option<u64>,
    /// The answer in words, so that it goes on where the check's name ends; with what to do where that is not plain.
    pub detail: String,
}

impl CheckResult {
    /// An answer.
    pub fn new(check: Check, state: CheckState, detail: impl Into<String>) -> Self {
        Self { check, state, took_ms: None, detail: detail.into() }
    }

    /// It is so, or it is not: the words of either.
    pub fn of(check: Check, answer: Result<String, String>) -> Self {
        match answer {
            Ok(words) => Self::new(check, CheckState::Passed, words),
            Err(words) => Self::new(check, CheckState::Failed, words),
        }
    }

    /// With the time it took.
    pub fn after(mut self, took: std::time::Duration) -> Self {
        self.took_ms = Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        self
    }
}

impl fmt::Display for CheckResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.state, self.detail.as_str()) {
            (CheckState::NotAsked, "") => write!(f, "{} was not asked", self.check),
            (CheckState::NotAsked | CheckState::Passed | CheckState::Look | CheckState::Failed, detail) => {
                write!(f, "{} {detail}", self.check)
            }
        }
    }
}

/// Checks that belong together, in the order in which they matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Suite {
    /// Of what: `coordinator`, `device`.
    pub name: String,
    /// The answers.
    pub checks: Vec<CheckResult>,
}

impl Suite {
    /// Without an answer yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), checks: Vec::new() }
    }

    /// Everything passed, or the first check that failed: the one to look at.
    ///
    /// # Errors
    /// With that check.
    pub fn judge(&self) -> Result<(), &CheckResult> {
        self.checks.iter().find(|one| one.state == CheckState::Failed).map_or(Ok(()), Err)
    }

    /// The worst answer; [`CheckState::NotAsked`] when there is none.
    pub fn state(&self) -> CheckState {
        self.checks.iter().map(|one| one.state).max().unwrap_or(CheckState::NotAsked)
    }

    /// All the time that was waited, in milliseconds; absent when for nothing.
    pub fn took_ms(&self) -> Option<u64> {
        self.checks.iter().filter_map(|one| one.took_ms).reduce(u64::saturating_add)
    }
}

/// Why a connection did not open, so that it goes on where a check's name ends.
pub fn no_connection(err: &io::Error) -> String {
    match err.kind() {
        io::ErrorKind::ConnectionRefused => "refused the connection".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "broke the connection off".to_owned(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            format!("cannot be reached from here ({err})")
        }
        // The list is not ours and grows.
        _ => format!("does not answer ({err})"),
    }
}

/// Nothing came within this time.
pub fn no_answer(within: std::time::Duration) -> String {
    format!("did not answer within {} ms", within.as_millis())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_check_and_its_answer_read_as_one_sentence() {
        let get = Check::HttpHealthy { at: ":80/".into() };
        let failed = CheckResult::of(get, Err("answered 500 Internal Server Error".into()));
        assert_eq!(failed.to_string(), "HTTP GET :80/ answered 500 Internal Server Error");
        let key = Check::NatsKvKeyExists { bucket: "meta".into(), key: "store".into() };
        assert_eq!(CheckResult::of(key.clone(), Ok("is there".into())).to_string(), "NATS key meta/store is there");
        assert_eq!(CheckResult::new(key, CheckState::NotAsked, "").to_string(), "NATS key meta/store was not asked");
        let tcp = Check::TcpReachable { at: ":81".into() };
        let err = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(CheckResult::of(tcp, Err(no_connection(&err))).to_string(), "TCP :81 refused the connection");
        assert_eq!(no_answer(Duration::from_secs(2)), "did not answer within 2000 ms");
    }

    #[test]
    fn a_suite_names_the_first_check_that_failed() {
        let answer = |what: &str, state| CheckResult::new(Check::holds(what), state, "");
        let mut suite = Suite::new("device");
        assert_eq!((suite.judge(), suite.state(), suite.took_ms()), (Ok(()), CheckState::NotAsked, None));
        suite.checks.push(answer("disk", CheckState::Passed).after(Duration::from_millis(3)));
        suite.checks.push(answer("watchdog", CheckState::Look).after(Duration::from_millis(4)));
        assert_eq!((suite.judge(), suite.state(), suite.took_ms()), (Ok(()), CheckState::Look, Some(7)));
        suite.checks.extend([answer("podman", CheckState::Failed), answer("broker", CheckState::Failed)]);
        suite.checks.push(answer("jwt", CheckState::NotAsked));
        assert_eq!(suite.judge().unwrap_err().check, Check::holds("podman"));
        assert_eq!(suite.state(), CheckState::Failed);
    }

    #[test]
    fn programs_get_kinds_and_fields() {
        let answer = CheckResult::of(Check::TcpReachable { at: "b:4222".into() }, Ok("takes connections".into()));
        let json = serde_json::to_value(&answer).unwrap();
        let want = serde_json::json!({
            "check": { "kind": "tcpReachable", "at": "b:4222" }, "state": "passed", "tookMs": null,
            "detail": "takes connections",
        });
        assert_eq!(json, want);
        assert_eq!(serde_json::from_value::<CheckResult>(json).unwrap(), answer);
    }
}
