//! A coordinator of a few lines for the cases a real one does not show on demand: errors, silence, broken streams.

use std::{
    io::Write,
    net::SocketAddr,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, Method, Response, StatusCode, Uri},
};
use serde_json::{Value, json};

/// One request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub line: String,
    pub tenant: String,
    pub token: String,
    pub body: Value,
}

/// A server that answers as a test says.
pub(crate) struct Fake {
    pub address: SocketAddr,
    pub asked: Arc<Mutex<Vec<Asked>>>,
    _runtime: tokio::runtime::Runtime,
    home: tempfile::TempDir,
}

pub(crate) type Answer = Response<Body>;

impl Fake {
    /// Answers every request with what `answer` makes of `METHOD /path?query` and how often that was asked before.
    pub(crate) fn start(answer: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Self {
        let asked = Arc::new(Mutex::new(vec![]));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (kept, answer) = (Arc::clone(&asked), Arc::new(answer));
        let handle = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
            async move {
                let line = format!("{method} {uri}");
                let text = |name| headers.get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let before = {
                    let mut kept = kept.lock().unwrap();
                    let before = kept.iter().filter(|a: &&Asked| a.line == line).count();
                    kept.push(Asked {
                        line: line.clone(),
                        tenant: text("x-tenant-id"),
                        token: text("authorization"),
                        body,
                    });
                    before
                };
                answer(&line, before)
            }
        };
        let app = Router::new().fallback(handle);
        runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, asked, _runtime: runtime, home: tempfile::tempdir().unwrap() }
    }

    /// The program, pointed at this server by environment, with a home of its own.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = bramble(self.home(), args);
        command.env("BRAMBLE_API", format!("http://{}", self.address)).env("BRAMBLE_TOKEN", "s3cret");
        command
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        ended(self.command(args), "")
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|a| a.line.clone()).collect()
    }
}

/// The program with nothing of this machine's configuration.
#[allow(clippy::disallowed_methods, reason = "a test of the program starts the program")]
pub(crate) fn bramble(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bramble"));
    command.args(args).env_clear().env("HOME", home).stdin(Stdio::null());
    command
}

/// How the program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub(crate) fn ended(mut command: Command, input: &str) -> Ended {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may end without reading: then nobody is there to write to.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    Ended {
        code: status.code().unwrap(),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

pub(crate) fn ok(body: &Value) -> Answer {
    Response::builder().header("content-type", "application/json").body(Body::from(body.to_string())).unwrap()
}

pub(crate) fn problem(status: u16, code: &str, detail: &str, errors: &Value) -> Answer {
    let body = json!({
        "type": "about:blank", "title": "", "status": status, "detail": detail, "code": code,
        "requestId": "r-1", "errors": errors,
    });
    Response::builder()
        .status(StatusCode::from_u16(status).unwrap())
        .header("content-type", "application/problem+json")
        .body(Body::from(body.to_string()))
        .unwrap()
}

pub(crate) fn stream(kind: &str, text: &str) -> Answer {
    Response::builder().header("content-type", kind).body(Body::from(text.to_owned())).unwrap()
}

/// An answer that never comes to an end.
pub(crate) fn endless(kind: &str, first: &'static str) -> Answer {
    use futures::StreamExt;
    let first = futures::stream::iter([Ok::<_, std::convert::Infallible>(Bytes::from(first))]);
    let body = Body::from_stream(first.chain(futures::stream::pending()));
    Response::builder().header("content-type", kind).body(body).unwrap()
}

pub(crate) fn device(name: &str, generation: u64) -> Value {
    json!({
        "id": "d-aaaaaaaaaaaaaaaaaaaa", "tenant": "default", "name": name, "labels": { "site": "home" }, "state": "active",
        "connection": "online", "lastSeen": null, "created": "2026-01-01T00:00:00Z", "health": "healthy",
        "desiredGeneration": generation, "reportedGeneration": generation, "hold": null, "quarantine": null,
        "agent": "0.1.0", "clock": { "verdict": "fit", "skewMs": 12, "sources": "the coordinator", "detail": "" },
        "report": null, "version": 1,
    })
}

pub(crate) fn deployment(revision: u64, devices: &Value) -> Value {
    json!({
        "uid": "aaaaaaaaaaaaaaaaaaaa", "revision": revision, "created": "2026-01-01T00:00:00Z",
        "updated": "2026-01-01T00:00:00Z",
        "manifest": {
            "apiVersion": "bramble/v1", "kind": "Deployment", "metadata": { "name": "web" },
            "spec": { "selector": { "matchLabels": { "site": "home" } },
                      "containers": [{ "name": "web", "image": "localhost/web:1" }] },
        },
        "summary": { "devices": 1, "confirmed": 0, "progressing": 1, "failed": 0, "unreachable": 0, "blocked": 0 },
        "devices": devices, "version": 1,
    })
}

pub(crate) fn target(status: &str, phase: &str, reason: &str) -> Value {
    json!([{
        "device": "d-aaaaaaaaaaaaaaaaaaaa", "name": "pi-1", "connection": "online", "blocked": null, "status": status,
        "phase": phase, "reason": reason, "app": null,
    }])
}

pub(crate) const MANIFEST: &str = "\
apiVersion: bramble/v1
kind: Deployment
metadata: { name: web }
spec:
  selector: { matchLabels: { site: home } }
  containers:
    - name: web
      image: localhost/web:1
      ports:
        - { host: 8080, container: 80 }
";

pub(crate) fn manifest(fake: &Fake) -> String {
    let path = fake.home().join("web.yaml");
    std::fs::write(&path, MANIFEST).unwrap();
    path.to_str().unwrap().to_owned()
}
