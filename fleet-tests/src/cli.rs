//! The operator's command line, as a process.

use std::time::Duration;

use serde_json::Value;
use xtask::run::{Cmd, Output};

/// `bramble` against one coordinator.
#[derive(Debug, Clone)]
pub struct Bramble {
    cmd: Cmd,
}

/// What it said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Bramble {
    pub(crate) fn new(cmd: Cmd) -> Self {
        Self { cmd }
    }

    /// The command line so far, to be run otherwise.
    #[must_use]
    pub fn cmd(&self) -> &Cmd {
        &self.cmd
    }

    /// The same with one more environment variable.
    #[must_use]
    pub fn with_env(&self, name: &str, value: &str) -> Self {
        Self { cmd: self.cmd.clone().env(name, value) }
    }

    /// Runs it; any exit code will do.
    ///
    /// # Panics
    /// When it cannot be started or does not end within two minutes.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Said {
        let output = self.cmd.clone().args(args).within(Duration::from_secs(120)).output();
        let Output { status, stdout, stderr } = output.unwrap_or_else(|err| panic!("{err}"));
        Said { code: status.code().unwrap_or(-1), out: stdout, err: stderr }
    }

    /// Runs it; it must succeed. Gives its standard output.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let said = self.run(args);
        assert_eq!(said.code, 0, "bramble {}: {}{}", args.join(" "), said.out, said.err);
        said.out
    }

    /// Runs it with `-o json`; it must succeed.
    ///
    /// # Panics
    /// When it fails or prints no JSON.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let args = [args, &["-o", "json"]].concat();
        let out = self.ok(&args);
        serde_json::from_str(&out).unwrap_or_else(|err| panic!("bramble {}: {err} in {out}", args.join(" ")))
    }

    /// Runs it; it must fail with this exit code. Gives both streams.
    ///
    /// # Panics
    /// When it ends otherwise.
    #[track_caller]
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let said = self.run(args);
        assert_eq!(said.code, code, "bramble {}: {}{}", args.join(" "), said.out, said.err);
        format!("{}{}", said.out, said.err)
    }
}
