//! The coordinator's HTTP API, as the one way in.
//!
//! Decides: how requests are made, how long anything may take, and what every answer means.
//! Deliberately does not: retry (a command decides that), nor print.

mod error;
mod socket;
mod stream;

use std::{fs, path::Path, time::Duration};

use bramble_contracts::{Tenant, api::Page, problem::Problem};
use reqwest::{
    Certificate, Method, Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE},
    redirect,
};
use serde::{Serialize, de::DeserializeOwned};

pub(crate) use error::ClientError;
pub(crate) use socket::{Came, Socket, refused};
pub(crate) use stream::Lines;

use crate::{
    config::{ConfigError, Secret},
    exit::Failure,
};

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Until the head of an answer, and between two parts of it. The coordinator gives up after 30 s and says why.
const IDLE_MAX: Duration = Duration::from_secs(40);
/// Until a binary has been taken. The coordinator gives up after 15 minutes, or 20 s without a byte.
const UPLOAD_MAX: Duration = Duration::from_secs(16 * 60);
/// The coordinator sends a sign of life on every watched list far more often than this.
const WATCH_IDLE_MAX: Duration = Duration::from_secs(60);
const BODY_BYTES_MAX: usize = 64 << 20;
const PAGE_ITEMS: usize = 500;
/// A list that does not end is a defect; this is five million items.
const PAGES_MAX: usize = 10_000;

/// Parameters of a request's address.
pub(crate) type Query<'a> = Vec<(&'static str, String)>;

/// How to reach one coordinator as one person.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<Secret>,
    tenant: Tenant,
}

/// The answer to a request for changes.
pub(crate) enum Told<T> {
    /// How it is now; there will be no more.
    Once(Box<T>),
    /// Events, each with the whole of it.
    Changes(Lines),
}

/// No body.
pub(crate) const NOTHING: Option<&()> = None;

impl Client {
    /// A client; nothing is sent yet.
    pub(crate) fn new(
        api: &str,
        ca: Option<&Path>,
        token: Option<Secret>,
        tenant: Tenant,
    ) -> Result<Self, ConfigError> {
        let base = base_url(api)?;
        // Two providers in one program would be a choice at run time; we use one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("bramble/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_MAX)
            .redirect(redirect::Policy::none());
        if is_loopback(&base) {
            http = http.no_proxy();
        }
        if let Some(path) = ca {
            http = http.tls_certs_only(certificates(path)?);
        }
        let http = http.build().map_err(|err| ConfigError::BadApi { text: api.to_owned(), why: chain(&err) })?;
        Ok(Self { http, base, token, tenant })
    }

    /// The same for another tenant.
    pub(crate) fn of_tenant(&self, tenant: &Tenant) -> Self {
        Self { tenant: tenant.clone(), ..self.clone() }
    }

    /// Whose things are asked for.
    pub(crate) fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// The address, for people.
    pub(crate) fn api(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Does the token cross a network that others can read?
    pub(crate) fn is_exposed(&self) -> bool {
        self.base.scheme() == "http" && !is_loopback(&self.base)
    }

    /// `GET /api/v1/<path>`.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &Query<'_>) -> Result<T, Failure> {
        let answer = self.send(Method::GET, path, query, NOTHING, IDLE_MAX).await?;
        Ok(self.body(answer).await?)
    }

    /// A request with a JSON body, and what it answers.
    pub(crate) async fn write<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        query: &Query<'_>,
        body: Option<&impl Serialize>,
    ) -> Result<T, Failure> {
        let answer = self.send(method, path, query, body, IDLE_MAX).await?;
        Ok(self.body(answer).await?)
    }

    /// A request with a body of plain bytes, and what it answers.
    pub(crate) async fn write_bytes<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        bytes: Vec<u8>,
    ) -> Result<T, ClientError> {
        self.octets(self.request(method, path, &vec![])?.body(bytes), IDLE_MAX).await
    }

    /// `PUT` of a file, part by part.
    pub(crate) async fn send_file<T: DeserializeOwned>(
        &self,
        path: &[&str],
        file: &Path,
        size: u64,
    ) -> Result<T, ClientError> {
        let unsendable = |err: std::io::Error| ClientError::Unsendable { why: format!("{}: {err}", file.display()) };
        let file = tokio::fs::File::open(file).await.map_err(unsendable)?;
        let request = self.request(Method::PUT, path, &vec![])?.header(CONTENT_LENGTH, size).body(file);
        self.octets(request, UPLOAD_MAX).await
    }

    /// Is there anything at this address?
    pub(crate) async fn has(&self, path: &[&str]) -> Result<bool, ClientError> {
        let answer = self.head(self.request(Method::HEAD, path, &vec![])?, IDLE_MAX).await?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            status => Err(ClientError::Strange { api: self.api().to_owned(), status: status.as_u16() }),
        }
    }

    async fn octets<T: DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
        idle: Duration,
    ) -> Result<T, ClientError> {
        let answer = self.head(request.header(CONTENT_TYPE, "application/octet-stream"), idle).await?;
        if answer.status().is_success() { self.body(answer).await } else { Err(self.refusal(answer).await) }
    }

    fn request(
        &self,
        method: Method,
        path: &[&str],
        query: &Query<'_>,
    ) -> Result<reqwest::RequestBuilder, ClientError> {
        let token = self.token.as_ref().ok_or(ClientError::NoToken)?;
        let request = self.http.request(method, self.url(path, query)).bearer_auth(token.reveal());
        Ok(request.header("x-tenant-id", self.tenant.as_str()).header(ACCEPT, "application/json"))
    }

    /// The first `most` things of a list, page by page.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &Query<'_>,
        most: usize,
    ) -> Result<Vec<T>, Failure> {
        let mut items = vec![];
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut query = query.clone();
            query.push(("limit", PAGE_ITEMS.min(most.max(1)).to_string()));
            query.extend(cursor.take().map(|c| ("cursor", c)));
            let page: Page<T> = self.get(path, &query).await?;
            items.extend(page.items);
            match page.next_cursor {
                Some(next) if items.len() < most => cursor = Some(next),
                Some(_) | None => {
                    items.truncate(most);
                    return Ok(items);
                }
            }
        }
        Err(Failure::Failed(format!("the list {} does not end: report this as a defect", path.join("/"))))
    }

    /// An answer of many lines, with a bound on the silence between them.
    pub(crate) async fn lines(
        &self,
        method: Method,
        path: &[&str],
        query: &Query<'_>,
        body: Option<&impl Serialize>,
        idle: Duration,
    ) -> Result<Lines, ClientError> {
        let answer = self.send(method, path, query, body, idle).await?;
        Ok(Lines::new(answer, idle, self.api()))
    }

    /// A list that is watched (server-sent events).
    pub(crate) async fn watch(&self, path: &[&str], query: &Query<'_>) -> Result<Lines, ClientError> {
        let mut query = query.clone();
        query.push(("watch", "1".to_owned()));
        let answer = self.send(Method::GET, path, &query, NOTHING, WATCH_IDLE_MAX).await?;
        if media_type(&answer) != "text/event-stream" {
            return Err(ClientError::Strange { api: self.api().to_owned(), status: answer.status().as_u16() });
        }
        Ok(Lines::new(answer, WATCH_IDLE_MAX, self.api()))
    }

    /// One thing as it changes (server-sent events). A coordinator that does not tell changes of one thing answers with how
    /// it is now.
    pub(crate) async fn follow<T: DeserializeOwned>(&self, path: &[&str]) -> Result<Told<T>, ClientError> {
        let query = vec![("watch", "1".to_owned())];
        let answer = self.send(Method::GET, path, &query, NOTHING, WATCH_IDLE_MAX).await?;
        if media_type(&answer) == "text/event-stream" {
            return Ok(Told::Changes(Lines::new(answer, WATCH_IDLE_MAX, self.api())));
        }
        self.body(answer).await.map(|now| Told::Once(Box::new(now)))
    }

    /// `GET` of an address outside the API (`/health`, `/ready`): any status, its `Date`, and the body if it is JSON.
    pub(crate) async fn probe<T: DeserializeOwned>(&self, path: &str) -> Result<Probe<T>, ClientError> {
        let mut url = self.base.clone();
        url.path_segments_mut().expect("invariant: http addresses have a path").pop_if_empty().push(path);
        let answer = self.head(self.http.get(url), IDLE_MAX).await?;
        let date = answer.headers().get("date").and_then(|d| d.to_str().ok()).map(str::to_owned);
        let status = answer.status();
        let bytes = self.bytes(answer).await?;
        Ok(Probe { status, date, body: serde_json::from_slice(&bytes).ok() })
    }

    fn url(&self, path: &[&str], query: &Query<'_>) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("invariant: http addresses have a path")
            .pop_if_empty()
            .extend(["api", "v1"])
            .extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// Sends, and answers only what is a success.
    async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &Query<'_>,
        body: Option<&impl Serialize>,
        idle: Duration,
    ) -> Result<Response, ClientError> {
        let mut request = self.request(method, path, query)?;
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = self.head(request, idle).await?;
        if answer.status().is_success() { Ok(answer) } else { Err(self.refusal(answer).await) }
    }

    async fn head(&self, request: reqwest::RequestBuilder, idle: Duration) -> Result<Response, ClientError> {
        let api = || self.api().to_owned();
        match tokio::time::timeout(idle, request.send()).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(err)) if err.is_builder() => Err(ClientError::Unsendable { why: chain(&err) }),
            Ok(Err(err)) => {
                let why = chain(&err);
                let is_trust = why.contains("certificate");
                Err(if is_trust {
                    ClientError::Untrusted { api: api(), why }
                } else {
                    ClientError::Unreachable { api: api(), why }
                })
            }
            Err(_) => Err(ClientError::Silent { api: api(), after: idle }),
        }
    }

    async fn refusal(&self, answer: Response) -> ClientError {
        let status = answer.status();
        let is_problem = media_type(&answer) == "application/problem+json";
        match self.bytes(answer).await {
            Ok(bytes) if is_problem => match serde_json::from_slice::<Problem>(&bytes) {
                Ok(problem) => ClientError::Refused(Box::new(problem)),
                Err(_) => ClientError::Strange { api: self.api().to_owned(), status: status.as_u16() },
            },
            Ok(_) => ClientError::Strange { api: self.api().to_owned(), status: status.as_u16() },
            Err(err) => err,
        }
    }

    async fn body<T: DeserializeOwned>(&self, answer: Response) -> Result<T, ClientError> {
        let bytes = self.bytes(answer).await?;
        serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(&bytes))
            .map_err(|err| ClientError::Unreadable { api: self.api().to_owned(), why: err.to_string() })
    }

    async fn bytes(&self, mut answer: Response) -> Result<Vec<u8>, ClientError> {
        let mut bytes = vec![];
        while let Some(part) = stream::part(&mut answer, IDLE_MAX, self.api()).await? {
            bytes.extend_from_slice(&part);
            if bytes.len() > BODY_BYTES_MAX {
                let why = format!("it is larger than {BODY_BYTES_MAX} bytes");
                return Err(ClientError::Unreadable { api: self.api().to_owned(), why });
            }
        }
        Ok(bytes)
    }
}

/// What an address outside the API answered.
#[derive(Debug)]
pub(crate) struct Probe<T> {
    /// The status.
    pub status: StatusCode,
    /// The server's clock.
    pub date: Option<String>,
    /// The body, where it could be read.
    pub body: Option<T>,
}

fn base_url(api: &str) -> Result<Url, ConfigError> {
    let bad = |why: &str| ConfigError::BadApi { text: api.to_owned(), why: why.to_owned() };
    let url = Url::parse(api).map_err(|err| bad(&err.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(bad("it begins with neither http:// nor https://"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        // The text may hold a password: it is not repeated.
        let text = format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
        return Err(ConfigError::BadApi { text, why: "without user, password, ? and #".to_owned() });
    }
    Ok(url)
}

fn media_type(answer: &Response) -> &str {
    let text = answer.headers().get(CONTENT_TYPE).and_then(|t| t.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim()
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, ConfigError> {
    let bad = |why: String| ConfigError::BadCa { path: path.to_owned(), why };
    let pem = fs::read(path).map_err(|err| bad(err.to_string()))?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|err| bad(chain(&err)))?;
    if found.is_empty() { Err(bad("there is none in it".to_owned())) } else { Ok(found) }
}

/// An error's causes, each said once, without the layers of libraries that only say that something failed.
fn chain(err: &dyn std::error::Error) -> String {
    const LAYERS: [&str; 4] =
        ["error sending request", "client error (", "request or response body error", "error decoding response body"];
    let causes = std::iter::successors(Some(err), |err| err.source()).map(ToString::to_string);
    let (mut said, mut last) = (vec![], String::new());
    for text in causes {
        if !LAYERS.iter().any(|layer| text.starts_with(layer)) && !last.contains(&text) {
            said.push(text.clone());
        }
        last = text;
    }
    if said.is_empty() { last } else { said.join(": ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_built_from_parts_and_checked() {
        let client = |api| Client::new(api, None, None, Tenant::default());
        let plain = client("http://127.0.0.1:7980/").unwrap();
        let url = plain.url(&["devices", "a/../b c"], &vec![("label", "site=a&b".into())]);
        assert_eq!(url.as_str(), "http://127.0.0.1:7980/api/v1/devices/a%2F..%2Fb%20c?label=site%3Da%26b");
        let below = client("https://x.example/bramble").unwrap();
        assert_eq!(below.url(&["me"], &vec![]).as_str(), "https://x.example/bramble/api/v1/me");
        for bad in ["x", "127.0.0.1:7980", "ftp://x", "http://u:p@x", "http://x?a"] {
            let told = client(bad).err().unwrap().to_string();
            assert!(told.contains("is not the address of a coordinator"), "{told}");
        }
    }

    #[test]
    fn a_token_is_exposed_only_over_plain_http_to_another_machine() {
        let exposed = |api| Client::new(api, None, None, Tenant::default()).unwrap().is_exposed();
        let each = ["http://10.0.0.1:1", "http://[::1]:1", "http://localhost:1", "https://10.0.0.1"].map(exposed);
        assert_eq!(each, [true, false, false, false]);
    }
}
