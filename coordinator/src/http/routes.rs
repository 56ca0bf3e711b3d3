//! Every route, in one table: what it needs, takes and answers. Rights are enforced from it, and the OpenAPI
//! description is written from it, so neither can say something else than the other.

use std::time::Duration;

use axum::http::Method;
use bramble_contracts::rights::Right;

use super::{os::table as os, rollouts::table as rollouts};

/// Until the head of an answer; bodies that stream have their own bounds.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// The same where a binary has to come in first.
const UPLOAD_DEADLINE: Duration = Duration::from_secs(15 * 60);

/// Who may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Anybody.
    Open,
    /// Anybody with a token.
    SignedIn,
    /// Who holds this right.
    Right(Right),
}

/// Whether a route belongs to a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// It needs `x-tenant-id`.
    Tenant,
    /// It ignores it.
    Platform,
}

/// What a request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Nothing.
    Nothing,
    /// JSON of this schema.
    Json(&'static str),
    /// JSON of this schema, or nothing.
    Maybe(&'static str),
    /// Bytes that were signed elsewhere.
    Signed,
    /// A binary, which may take its time.
    Binary,
}

/// What an answer carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gives {
    /// JSON of this schema.
    Json(&'static str),
    /// JSON of this schema with an `ETag`.
    Object(&'static str),
    /// A page of this schema; a stream of events when watched.
    List(&'static str),
    /// Text of this media type.
    Text(&'static str),
    /// One JSON of this schema a line.
    Lines(&'static str),
    /// A WebSocket: text messages of the first schema from the client, of the second from us.
    Socket(&'static str, &'static str),
    /// A binary, or the part that `Range` names.
    Binary,
    /// Any JSON.
    Free,
}

/// A query parameter: name, JSON schema, words.
pub type Param = (&'static str, &'static str, &'static str);

/// One method of one path.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// Its method.
    pub method: &'static str,
    /// Its path, with `{name}` or `{id}`.
    pub path: &'static str,
    /// Who may come in.
    pub guard: Guard,
    /// Whether it belongs to a tenant.
    pub scope: Scope,
    /// In words.
    pub summary: &'static str,
    /// Its query.
    pub query: &'static [Param],
    /// Its body.
    pub takes: Takes,
    /// Its status when all is well.
    pub status: u16,
    /// Its answer then.
    pub gives: Gives,
    /// Statuses of its own, beside those that follow from the rest.
    pub also: &'static [u16],
}

pub(super) const LIMIT: Param =
    ("limit", r#"{"type":"integer","minimum":1,"maximum":1000}"#, "Items on a page; 100 by default.");
pub(super) const CURSOR: Param = ("cursor", r#"{"type":"string"}"#, "The nextCursor of the page before.");
const LABEL: Param = (
    "label",
    r#"{"type":"string","pattern":"^([A-Za-z0-9]+=[A-Za-z0-9]*(,[A-Za-z0-9]+=[A-Za-z0-9]*)*)?$"}"#,
    "Only those with all of these labels: name=value,…",
);
const DEVICE_FIELD: Param = (
    "field",
    r#"{"type":"string","pattern":"^((name|id|state|connection)=[a-z0-9-]*)?$"}"#,
    "Only those whose fields are so: field=value,… of name, id, state and connection.",
);
const DEPLOYMENT_FIELD: Param =
    ("field", r#"{"type":"string","pattern":"^(name=[a-z0-9-]*)?$"}"#, "Only those whose fields are so: name=….");
const DEVICES: &[Param] = &[LIMIT, CURSOR, LABEL, DEVICE_FIELD];
const DEPLOYMENTS: &[Param] = &[LIMIT, CURSOR, LABEL, DEPLOYMENT_FIELD];
pub(super) const PAGED: &[Param] = &[LIMIT, CURSOR];
const AUDIT: &[Param] = &[
    LIMIT,
    ("cursor", r#"{"type":"string","pattern":"^[0-9]{1,19}$"}"#, "The nextCursor of the page before."),
    ("since", r#"{"type":"string","format":"date-time"}"#, "Nothing older than this."),
];
const DRY: &[Param] = &[("dryRun", r#"{"type":"boolean"}"#, "Only say what would be done.")];
const EXPLAIN: &[Param] = &[("deployment", r#"{"type":"string"}"#, "Only this deployment on the device.")];
const MOMENT: &str = r#"{"type":"string","pattern":"^([0-9]{1,6}(s|m|h|d)|20[0-9]{2}-[01][0-9]-[0-2][0-9]T[01][0-9]:[0-5][0-9]:[0-5][0-9]Z)$"}"#;

const LOGS: &[Param] = &[
    ("device", r#"{"type":"string"}"#, "Only on this device; all that are selected when absent."),
    ("container", r#"{"type":"string"}"#, "Only this container."),
    (
        "tail",
        r#"{"type":"string","pattern":"^([0-9]{1,4}|all)$"}"#,
        "The last so many lines of each container, up to 10000, or `all`; 100 by default, all with since, until or previous.",
    ),
    ("since", MOMENT, "From the first line on that is not older than this: 10m, or 2026-01-02T03:04:05Z."),
    ("until", MOMENT, "Up to the last line that is not younger than this."),
    ("previous", r#"{"type":"boolean"}"#, "Of the containers before the newest ones."),
    ("follow", r#"{"type":"boolean"}"#, "Go on with what comes."),
    ("from", r#"{"type":"string"}"#, "Follow on from DEVICE/CONTAINER:PLACE,…, with each `next` that was read before."),
];

const PLAIN: Route = Route {
    method: "GET",
    path: "/",
    guard: Guard::Open,
    scope: Scope::Platform,
    summary: "",
    query: &[],
    takes: Takes::Nothing,
    status: 200,
    gives: Gives::Free,
    also: &[],
};

const fn open(path: &'static str, summary: &'static str, gives: Gives, also: &'static [u16]) -> Route {
    Route { path, summary, gives, also, ..PLAIN }
}

pub(super) const fn read(path: &'static str, right: Right, summary: &'static str, gives: Gives) -> Route {
    Route { path, guard: Guard::Right(right), scope: Scope::Tenant, summary, gives, also: &[404, 503], ..PLAIN }
}

pub(super) const fn act(path: &'static str, right: Right, summary: &'static str, takes: Takes) -> Route {
    Route {
        method: "POST",
        path,
        guard: Guard::Right(right),
        scope: Scope::Tenant,
        summary,
        takes,
        gives: Gives::Object("DeviceView"),
        also: &[404, 409, 412, 422, 503],
        ..PLAIN
    }
}

const fn enroll(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    takes: Takes,
    gives: &'static str,
) -> Route {
    Route { method, path, summary, takes, gives: Gives::Json(gives), also: &[403, 409, 503], ..PLAIN }
}

const fn publish(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    takes: Takes,
    gives: &'static str,
) -> Route {
    let guard = Guard::Right(Right::ReleasesWrite);
    Route { method, path, guard, summary, takes, gives: Gives::Json(gives), also: &[409, 422, 503], ..PLAIN }
}

/// All of them.
pub const ROUTES: &[Route] = &[
    open("/", "What this is, for people.", Gives::Text("text/html"), &[]),
    open("/health", "Is the coordinator alive?", Gives::Json("ReadyView"), &[]),
    open("/ready", "Can it serve? 503 while it catches up with its store.", Gives::Json("ReadyView"), &[503]),
    open("/metrics", "Numbers, for Prometheus.", Gives::Text("text/plain"), &[]),
    open("/api/v1/openapi.json", "This description.", Gives::Free, &[]),
    Route {
        path: "/api/v1/me",
        guard: Guard::SignedIn,
        summary: "Who am I, and what may I do?",
        gives: Gives::Json("Me"),
        ..PLAIN
    },
    Route {
        path: "/api/v1/tenants",
        guard: Guard::SignedIn,
        summary: "Every tenant that has anything.",
        gives: Gives::List("TenantView"),
        query: PAGED,
        also: &[503],
        ..PLAIN
    },
    Route { query: DEVICES, ..read("/api/v1/devices", Right::DevicesRead, "Devices.", Gives::List("DeviceView")) },
    read(
        "/api/v1/devices/{name}",
        Right::DevicesRead,
        "One device, by name or id, with its report.",
        Gives::Object("DeviceView"),
    ),
    Route {
        query: EXPLAIN,
        ..read(
            "/api/v1/devices/{name}/explain",
            Right::DevicesRead,
            "Why is it not up to date?",
            Gives::Json("Explanation"),
        )
    },
    Route {
        method: "PATCH",
        ..act("/api/v1/devices/{name}/labels", Right::DevicesWrite, "Change its labels.", Takes::Json("LabelChange"))
    },
    act("/api/v1/devices/{name}/approve", Right::DevicesWrite, "Let a pending device work.", Takes::Maybe("Because")),
    act(
        "/api/v1/devices/{name}/quarantine",
        Right::DevicesQuarantine,
        "Cut it off at once. Its apps keep running.",
        Takes::Json("Because"),
    ),
    act("/api/v1/devices/{name}/unquarantine", Right::DevicesQuarantine, "Let it back.", Takes::Maybe("Because")),
    Route {
        gives: Gives::Lines("StreamLine"),
        also: &[404, 422, 503, 504],
        ..act(
            "/api/v1/devices/{name}/exec",
            Right::DevicesExec,
            "Run a program inside an app.",
            Takes::Json("ExecRequest"),
        )
    },
    Route {
        status: 101,
        also: &[404, 503],
        ..read(
            "/api/v1/devices/{name}/terminal",
            Right::DevicesExec,
            "Run a program inside an app, with input or a terminal.",
            Gives::Socket("SessionSays", "SessionTells"),
        )
    },
    Route {
        query: DEPLOYMENTS,
        ..read("/api/v1/deployments", Right::DeploymentsRead, "Deployments.", Gives::List("DeploymentView"))
    },
    read(
        "/api/v1/deployments/{name}",
        Right::DeploymentsRead,
        "One deployment, with its devices.",
        Gives::Object("DeploymentView"),
    ),
    Route {
        method: "PUT",
        query: DRY,
        gives: Gives::Object("Applied"),
        also: &[404, 409, 412, 422, 503],
        ..act(
            "/api/v1/deployments/{name}",
            Right::DeploymentsWrite,
            "Apply it. The same again changes nothing.",
            Takes::Json("Manifest"),
        )
    },
    Route {
        method: "DELETE",
        query: DRY,
        gives: Gives::Json("PlannedDeployment"),
        also: &[404, 409, 412, 503],
        ..act(
            "/api/v1/deployments/{name}",
            Right::DeploymentsWrite,
            "Delete it: its devices get newer documents without it.",
            Takes::Nothing,
        )
    },
    Route {
        query: LOGS,
        also: &[404, 409, 503, 504],
        ..read(
            "/api/v1/deployments/{name}/logs",
            Right::DevicesLogs,
            "What its containers print.",
            Gives::Lines("StreamLine"),
        )
    },
    Route {
        gives: Gives::Json("PlanView"),
        also: &[422, 503],
        ..act(
            "/api/v1/plan",
            Right::DeploymentsRead,
            "What applying these would change, on which devices, in what order.",
            Takes::Json("PlanRequest"),
        )
    },
    Route {
        query: PAGED,
        ..read(
            "/api/v1/enrollment-tokens",
            Right::TokensRead,
            "Enrolment tokens, without their secrets.",
            Gives::List("TokenView"),
        )
    },
    Route {
        status: 201,
        gives: Gives::Json("TokenCreated"),
        also: &[409, 422, 503],
        ..act(
            "/api/v1/enrollment-tokens",
            Right::TokensWrite,
            "Make an enrolment token. The only time its text is shown.",
            Takes::Maybe("TokenRequest"),
        )
    },
    read("/api/v1/enrollment-tokens/{id}", Right::TokensRead, "One enrolment token.", Gives::Object("TokenView")),
    Route {
        method: "DELETE",
        gives: Gives::Object("TokenView"),
        also: &[404, 409, 412, 503],
        ..act("/api/v1/enrollment-tokens/{id}", Right::TokensWrite, "Revoke it.", Takes::Nothing)
    },
    rollouts::LIST,
    rollouts::DESCRIBE,
    rollouts::CREATE,
    rollouts::ask("/api/v1/rollouts/{name}/pause", "Let no further device begin."),
    rollouts::ask("/api/v1/rollouts/{name}/resume", "Go on after a pause."),
    rollouts::ask("/api/v1/rollouts/{name}/abort", "End it. Who has it keeps it."),
    rollouts::ask("/api/v1/rollouts/{name}/promote", "Go on to the next batch without waiting for this one."),
    rollouts::ask("/api/v1/rollouts/{name}/retry", "Let the devices that failed try again."),
    rollouts::ask("/api/v1/rollouts/{name}/approve", "Let the next batch begin."),
    os::PLAN,
    Route {
        query: AUDIT,
        ..read("/api/v1/audit", Right::AuditRead, "Who did what, newest first.", Gives::List("AuditEvent"))
    },
    Route {
        gives: Gives::Json("ResumeView"),
        also: &[404, 409, 422, 503],
        ..act(
            "/api/v1/resume",
            Right::FleetResume,
            "What to do with devices that know more than the store.",
            Takes::Json("ResumeRequest"),
        )
    },
    Route {
        scope: Scope::Platform,
        query: PAGED,
        ..read("/api/v1/releases", Right::ReleasesRead, "Releases of the agent.", Gives::List("ReleaseView"))
    },
    publish(
        "POST",
        "/api/v1/releases",
        "Publish a release: its signed manifest, once its binaries are here. The newest again changes nothing.",
        Takes::Signed,
        "ReleaseView",
    ),
    Route {
        scope: Scope::Platform,
        ..read("/api/v1/releases/keys", Right::ReleasesRead, "The release keys.", Gives::Json("ReleaseKeysView"))
    },
    publish(
        "PUT",
        "/api/v1/releases/keys",
        "Publish release keys: the first ones, or the successors of the newest. The newest again changes nothing.",
        Takes::Signed,
        "ReleaseKeysView",
    ),
    Route {
        scope: Scope::Platform,
        ..read("/api/v1/releases/{version}", Right::ReleasesRead, "One release.", Gives::Json("ReleaseView"))
    },
    Route {
        scope: Scope::Platform,
        also: &[404, 416, 503],
        ..read("/api/v1/releases/blobs/{sha256}", Right::ReleasesRead, "A binary by its digest.", Gives::Binary)
    },
    publish(
        "PUT",
        "/api/v1/releases/blobs/{sha256}",
        "Send a binary by its digest. One that has another digest is not kept.",
        Takes::Binary,
        "BinaryView",
    ),
    enroll("POST", "/api/v1/enroll", "Enrol a device with a token.", Takes::Json("EnrollRequest"), "EnrollResponse"),
    enroll(
        "GET",
        "/api/v1/enroll/trust",
        "The signed trust document; a device checks it against its token.",
        Takes::Nothing,
        "TrustView",
    ),
    enroll("POST", "/api/v1/enroll/nonce", "Something fresh to sign.", Takes::Nothing, "Nonce"),
    enroll(
        "POST",
        "/api/v1/enroll/renew",
        "A new JWT for a device whose own has expired.",
        Takes::Json("RenewHttpRequest"),
        "EnrollResponse",
    ),
];

impl Route {
    /// For how long an answer may be waited for.
    pub fn deadline(&self) -> Duration {
        match self.takes {
            Takes::Nothing | Takes::Json(_) | Takes::Maybe(_) | Takes::Signed => DEADLINE,
            Takes::Binary => UPLOAD_DEADLINE,
        }
    }

    /// Does it do something, and not only show?
    pub fn acts(&self) -> bool {
        self.method != "GET" || matches!(self.gives, Gives::Socket(..))
    }
}

/// The route of a request. `HEAD` is `GET` without a body.
pub fn find(method: &Method, path: &str) -> Option<&'static Route> {
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    ROUTES.iter().find(|r| r.method == method && r.path == path)
}

/// The methods of a path.
pub fn methods(path: &str) -> Vec<&'static str> {
    ROUTES.iter().filter(|r| r.path == path).map(|r| r.method).collect()
}
