//! Running a command in a container: its output, both streams, and its exit code. No terminal yet.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::containers::{Output, short};
use super::http::{CHANGE, Call, LOOK, Podman, PodmanError, escape};
use super::types::{ExecDetail, Made};

/// A command to run.
#[derive(Clone, Debug, Default)]
pub struct ExecSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Added environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub work_dir: Option<String>,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecEnd {
    /// Its exit code.
    pub exit_code: i32,
}

/// How long after the last byte Podman may take to know the exit code.
const SETTLE_TRIES_MAX: u32 = 100;
const SETTLE_PAUSE: Duration = Duration::from_millis(20);

impl Podman {
    /// Prepares a command in a running container. Returns the session's id.
    pub async fn exec_create(&self, container: &str, spec: &ExecSpec) -> Result<String, PodmanError> {
        let env: Vec<String> = spec.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let mut body =
            json!({ "Cmd": spec.command, "AttachStdout": true, "AttachStderr": true, "Tty": false, "Env": env });
        if let Some(dir) = &spec.work_dir {
            body["WorkingDir"] = json!(dir);
        }
        let what = format!("prepare a command in container {}", short(container));
        let call = Call::post(what, format!("/containers/{}/exec", escape(container))).json(&body);
        Ok(self.ask_json::<Made>(call, CHANGE).await?.id)
    }

    /// Starts a prepared command and hands over its output.
    pub async fn exec_start(&self, session: &str) -> Result<Output, PodmanError> {
        let what = format!("run command {}", short(session));
        let call = Call::post(what.clone(), format!("/exec/{}/start", escape(session)))
            .json(&json!({ "Detach": false, "Tty": false }));
        Ok(Output::new(what, self.open(call, CHANGE).await?.into_body()))
    }

    /// What became of a command.
    pub async fn exec_inspect(&self, session: &str) -> Result<ExecDetail, PodmanError> {
        let what = format!("look at command {}", short(session));
        self.ask_json(Call::get(what, format!("/exec/{}/json", escape(session))), LOOK).await
    }

    /// The exit code of a command whose output has ended.
    pub async fn exec_end(&self, session: &str) -> Result<ExecEnd, PodmanError> {
        for _ in 0..SETTLE_TRIES_MAX {
            let detail = self.exec_inspect(session).await?;
            if !detail.running {
                return Ok(ExecEnd { exit_code: detail.exit_code });
            }
            tokio::time::sleep(SETTLE_PAUSE).await;
        }
        let after = SETTLE_PAUSE * SETTLE_TRIES_MAX;
        Err(PodmanError::TimedOut { what: format!("tell how command {} ended", short(session)), after })
    }
}
