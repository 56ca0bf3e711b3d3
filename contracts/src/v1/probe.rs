//! How to see that a container is healthy.

use serde::{Deserialize, Serialize};

use crate::quantity::Millis;
use crate::smoke::Check;

/// How to see that a container is healthy: exactly one of `http`, `tcp`, `exec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// A GET that answers 200 to 399.
    #[serde(default)]
    pub http: Option<HttpProbe>,
    /// A connection that opens.
    #[serde(default)]
    pub tcp: Option<TcpProbe>,
    /// A command that exits 0.
    #[serde(default)]
    pub exec: Option<ExecProbe>,
    /// Between two tries.
    #[serde(default = "probe_interval")]
    pub interval: Millis,
    /// For one try.
    #[serde(default = "probe_timeout")]
    pub timeout: Millis,
    /// So many failures in a row are unhealthy.
    #[serde(default = "probe_failures")]
    pub failures: u16,
}

impl Probe {
    /// The question it asks. One that holds none of the three asks nothing.
    pub fn check(&self) -> Option<Check> {
        match (&self.http, &self.tcp, &self.exec) {
            (Some(http), _, _) => Some(Check::HttpHealthy { at: format!(":{}{}", http.port, http.path) }),
            (None, Some(tcp), _) => Some(Check::TcpReachable { at: format!(":{}", tcp.port) }),
            (None, None, Some(exec)) => Some(Check::CommandSucceeds { command: exec.command.join(" ") }),
            (None, None, None) => None,
        }
    }
}

fn probe_interval() -> Millis {
    Millis::secs(5)
}
fn probe_timeout() -> Millis {
    Millis::secs(2)
}
fn probe_failures() -> u16 {
    3
}

/// GET `http://<container>:<port><path>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpProbe {
    /// Port in the container.
    pub port: u16,
    /// Path, `/` by default.
    #[serde(default = "root_path")]
    pub path: String,
}

fn root_path() -> String {
    "/".to_owned()
}

/// Connect to `<container>:<port>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpProbe {
    /// Port in the container.
    pub port: u16,
}

/// Run a command in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecProbe {
    /// The command and its arguments.
    pub command: Vec<String>,
}
