//! The HTTP API as a program sees it: plain requests, JSON, the status and the problem's code.

use std::sync::OnceLock;
use std::time::Duration;

use bramble_contracts::problem::{Code, Problem};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The runtime on which everything asynchronous of the harness runs.
pub fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        built.expect("invariant: a runtime can be made")
    })
}

/// One coordinator's API, with a bearer token.
#[derive(Clone)]
pub struct Api {
    base: String,
    token: String,
    http: reqwest::Client,
}

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// With status and body when the status is not one of success, or the body is something else.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, String> {
        if !(200..300).contains(&self.status) {
            return Err(format!("{} {}", self.status, self.body.trim()));
        }
        serde_json::from_str(&self.body).map_err(|err| format!("{err} in {}", self.body))
    }

    /// The code of a problem.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        serde_json::from_str::<Problem>(&self.body).ok().map(|p| p.code)
    }
}

fn answered(request: reqwest::RequestBuilder) -> Result<Answer, String> {
    runtime().block_on(async {
        let answer = request.send().await.map_err(|err| format!("{err:?}"))?;
        let status = answer.status().as_u16();
        let body = answer.text().await.map_err(|err| format!("{err:?}"))?;
        Ok(Answer { status, body })
    })
}

impl Api {
    /// An API at `http://host:port`, or at `https://…` with the certificate of its authority in PEM.
    ///
    /// # Panics
    /// When no HTTP client can be made.
    #[must_use]
    pub fn new(base: &str, token: &str, ca: Option<&[u8]>) -> Self {
        // Somebody in this program was first: as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder().timeout(Duration::from_secs(30)).no_proxy();
        if let Some(ca) = ca {
            let ca = reqwest::Certificate::from_pem(ca).expect("a certificate in PEM");
            http = http.tls_certs_only([ca]);
        }
        let http = http.build().expect("invariant: an HTTP client can be made");
        Self { base: base.to_owned(), token: token.to_owned(), http }
    }

    /// The same API with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// Its address.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// One request.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, String> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(body);
        }
        answered(request)
    }

    /// One request with a body of plain bytes.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn ask_bytes(&self, method: &str, path: &str, body: Vec<u8>) -> Result<Answer, String> {
        answered(self.request(method, path).header("content-type", "application/octet-stream").body(body))
    }

    /// A part of what lies at `path`, as `Range` names it: the status and the bytes.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn part(&self, path: &str, range: &str) -> Result<(u16, Vec<u8>), String> {
        let request = self.request("GET", path).header("range", range);
        runtime().block_on(async {
            let answer = request.send().await.map_err(|err| format!("{err:?}"))?;
            let status = answer.status().as_u16();
            Ok((status, answer.bytes().await.map_err(|err| format!("{err:?}"))?.to_vec()))
        })
    }

    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method: reqwest::Method = method.parse().expect("invariant: an HTTP method");
        let request = self.http.request(method, format!("{}{path}", self.base)).header("x-tenant-id", "default");
        if self.token.is_empty() { request } else { request.bearer_auth(&self.token) }
    }

    /// GET, as a value.
    ///
    /// # Errors
    /// When there is no answer, or not one of success.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        self.ask("GET", path, None)?.json()
    }

    /// A request that must succeed.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn must<T: DeserializeOwned>(&self, method: &str, path: &str, body: &Value) -> T {
        let answer = self.ask(method, path, Some(body)).and_then(|a| a.json());
        answer.unwrap_or_else(|why| panic!("{method} {path}: {why}"))
    }
}
