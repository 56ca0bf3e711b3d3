//! The description of the API, written from the table of routes and the types of `contracts`: it cannot say something
//! else than what is served. Tests walk it.

use std::collections::{BTreeMap, BTreeSet};

use bramble_contracts::{api, problem, v1};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{
    enroll::TrustView,
    routes::{Gives, Guard, ROUTES, Route, Scope, Takes},
    system::VERSION,
};

const OCTETS: &str = "application/octet-stream";

fn add<T: ToSchema>(all: &mut BTreeMap<String, Value>) {
    let mut found = vec![];
    T::schemas(&mut found);
    found.push((T::name().into_owned(), T::schema()));
    for (name, schema) in found {
        all.insert(name, serde_json::to_value(schema).expect("invariant: schemas always fit JSON"));
    }
}

fn schemas() -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    add::<api::Me>(&mut all);
    add::<api::DeviceView>(&mut all);
    add::<api::DeploymentView>(&mut all);
    add::<api::Applied>(&mut all);
    add::<api::PlanRequest>(&mut all);
    add::<api::PlanView>(&mut all);
    add::<api::PlannedDeployment>(&mut all);
    add::<api::LabelChange>(&mut all);
    add::<api::Because>(&mut all);
    add::<api::TokenRequest>(&mut all);
    add::<api::TokenView>(&mut all);
    add::<api::TokenCreated>(&mut all);
    add::<api::AuditEvent>(&mut all);
    add::<api::ExecRequest>(&mut all);
    add::<api::StreamLine>(&mut all);
    add::<api::SessionSays>(&mut all);
    add::<api::SessionTells>(&mut all);
    add::<api::Explanation>(&mut all);
    add::<api::ResumeRequest>(&mut all);
    add::<api::ResumeView>(&mut all);
    add::<api::RolloutRequest>(&mut all);
    add::<api::RolloutView>(&mut all);
    add::<api::OsPlanRequest>(&mut all);
    add::<api::OsPlanLine>(&mut all);
    add::<api::ReadyView>(&mut all);
    add::<api::ReleaseView>(&mut all);
    add::<api::ReleaseKeysView>(&mut all);
    add::<api::BinaryView>(&mut all);
    add::<problem::Problem>(&mut all);
    add::<v1::Manifest>(&mut all);
    add::<v1::EnrollRequest>(&mut all);
    add::<v1::EnrollResponse>(&mut all);
    add::<v1::Nonce>(&mut all);
    add::<v1::RenewHttpRequest>(&mut all);
    add::<TrustView>(&mut all);
    add::<api::TenantView>(&mut all);
    describe_texts(&mut all);
    all
}

/// What the checked texts of `contracts` look like; their rules live there, and this only describes them.
const PATTERNS: [(&str, &str); 14] = [
    ("Name", "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"),
    ("Tenant", "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"),
    ("DeviceId", "^d-[a-z2-7]{20}$"),
    ("Uid", "^[a-z2-7]{20}$"),
    ("LabelKey", "^[A-Za-z0-9]([A-Za-z0-9_./-]{0,61}[A-Za-z0-9])?$"),
    ("ImageRef", "^[A-Za-z0-9][A-Za-z0-9_.:@-]*(/[A-Za-z0-9_.:@-]+)*$"),
    ("EnvName", "^[A-Za-z_][A-Za-z0-9_]{0,255}$"),
    ("MountPath", "^(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+$"),
    ("Signal", "^SIG(TERM|INT|QUIT|HUP|USR1|USR2|KILL|WINCH)$"),
    ("Target", "^[a-z0-9_]+(-[a-z0-9_]+){2,3}$"),
    ("Millis", "^[0-9]{1,6}(ms|s|m|h|d)$"),
    ("ByteSize", "^[0-9]{1,6}(k|Ki|M|Mi|G|Gi)?$"),
    ("Amount", "^([1-9][0-9]{0,3}|[1-9][0-9]?%|100%)$"),
    ("MilliCpus", "^[1-9][0-9]{0,3}([.][0-9]{1,3})?$"),
];

fn describe_texts(all: &mut BTreeMap<String, Value>) {
    for (name, pattern) in PATTERNS {
        if let Some(schema) = all.get_mut(name).filter(|s| s["type"] == "string") {
            schema["pattern"] = pattern.into();
        }
    }
    // These read numbers as well as texts.
    for name in ["Amount", "ByteSize", "MilliCpus"] {
        if let Some(schema) = all.get_mut(name).filter(|s| s["type"] == "string") {
            schema["type"] = json!(["string", "number"]);
        }
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn ids() -> Value {
    let text = json!({ "type": "string" });
    json!({
        "x-request-id": { "schema": text, "description": "Of this request; kept when sent." },
        "x-correlation-id": { "schema": text, "description": "Of the caller's larger work; kept when sent." },
        "traceparent": { "schema": text, "description": "W3C trace context, continued when sent." },
    })
}

fn good(route: &Route) -> Value {
    let mut headers = ids();
    let content = match route.gives {
        Gives::Json(name) => json!({ "application/json": { "schema": reference(name) } }),
        Gives::Object(name) => {
            headers["etag"] = json!({ "schema": { "type": "string" }, "description": "For If-Match." });
            json!({ "application/json": { "schema": reference(name) } })
        }
        Gives::List(name) => {
            let page = json!({
                "type": "object",
                "required": ["items"],
                "properties": {
                    "items": { "type": "array", "items": reference(name) },
                    "nextCursor": { "type": ["string", "null"], "description": "Absent on the last page." },
                },
            });
            json!({ "application/json": { "schema": page } })
        }
        Gives::Text(media) => json!({ media: { "schema": { "type": "string" } } }),
        Gives::Lines(name) => {
            let words = format!("One {name} a line; the last one is `end` or `error`.");
            json!({ "application/x-ndjson": { "schema": { "type": "string", "description": words } } })
        }
        Gives::Socket(..) => return json!({ "description": "From now on a WebSocket.", "headers": headers }),
        Gives::Binary => {
            headers["etag"] = json!({ "schema": { "type": "string" }, "description": "For If-Range." });
            json!({ OCTETS: {} })
        }
        Gives::Free => json!({ "application/json": { "schema": {} } }),
    };
    json!({ "description": "All is well.", "headers": headers, "content": content })
}

fn bad(route: &Route) -> BTreeSet<u16> {
    // Every route may miss its deadline, or meet a defect of ours; 400 also comes from bytes that are not HTTP.
    let mut statuses = BTreeSet::from([400, 500, 504]);
    if route.guard != Guard::Open {
        statuses.insert(401);
    }
    if let Guard::Right(_) = route.guard {
        statuses.insert(403);
    }
    match route.takes {
        Takes::Nothing => {}
        Takes::Json(_) | Takes::Maybe(_) | Takes::Signed | Takes::Binary => statuses.extend([413, 415, 422]),
    }
    statuses.extend(route.also);
    statuses.remove(&route.status);
    statuses
}

fn responses(route: &Route) -> Value {
    let mut all = Map::new();
    all.insert(route.status.to_string(), good(route));
    if route.gives == Gives::Binary {
        all.insert("206".to_owned(), good(route));
    }
    for status in bad(route) {
        let reason =
            axum::http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Error");
        let schema = if route.path == "/ready" && status == 503 { "ReadyView" } else { "Problem" };
        let media = if schema == "Problem" { "application/problem+json" } else { "application/json" };
        let content = json!({ media: { "schema": reference(schema) } });
        all.insert(status.to_string(), json!({ "description": reason, "headers": ids(), "content": content }));
    }
    Value::Object(all)
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut all = vec![];
    for segment in route.path.split('/') {
        if let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            all.push(json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
        }
    }
    for (name, schema, words) in route.query {
        let schema: Value = serde_json::from_str(schema).expect("invariant: the table holds JSON schemas");
        all.push(json!({ "name": name, "in": "query", "schema": schema, "description": words }));
    }
    if route.scope == Scope::Tenant {
        let schema = json!({ "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" });
        all.push(
            json!({ "name": "x-tenant-id", "in": "header", "required": true, "schema": schema, "example": "default" }),
        );
    }
    if route.gives == Gives::Binary {
        let words = "One range of bytes (RFC 9110); the answer has status 206.";
        let schema = json!({ "type": "string", "pattern": "^bytes=[0-9]{1,9}-[0-9]{0,9}$" });
        all.push(json!({ "name": "Range", "in": "header", "schema": schema, "description": words }));
    }
    if route.also.contains(&412) {
        let words = "Only if it is still this version (its ETag).";
        let schema = json!({ "type": "string", "pattern": "^(\\*|\"[0-9]{1,19}\")$" });
        all.push(json!({ "name": "If-Match", "in": "header", "schema": schema, "description": words }));
    }
    all
}

fn operation(route: &Route) -> Value {
    let needs = match route.guard {
        Guard::Open => "Needs no token.".to_owned(),
        Guard::SignedIn => "Needs a token.".to_owned(),
        Guard::Right(right) => format!("Needs the right `{}`.", right.as_str()),
    };
    let more = match route.gives {
        Gives::List("DeviceView" | "DeploymentView" | "RolloutView") => {
            " With `?watch=1` the answer is `text/event-stream`: events `put` with an item, and `deleted`.".to_owned()
        }
        Gives::Socket(says, tells) => format!(
            " A WebSocket. Texts from the client are `{says}`, the first one `start`; texts to it are `{tells}`, the last \
             one `end`, `error` or `problem`. Binary messages are one byte of channel (0 input; 1 output; 2 standard \
             error) and at most 16 KiB. At most 8 messages of input may be sent beyond those told as `taken`; of output \
             64 are sent beyond those that the client tells as `taken`."
        ),
        Gives::Object("DeviceView" | "DeploymentView" | "RolloutView") if route.method == "GET" => {
            " With `?watch=1` the answer is `text/event-stream`: events `put` with the whole of it whenever it changes \
             (so each stage of an app as it is passed, with the time it took), and `deleted`."
                .to_owned()
        }
        Gives::List(_)
        | Gives::Json(_)
        | Gives::Object(_)
        | Gives::Text(_)
        | Gives::Lines(_)
        | Gives::Binary
        | Gives::Free => String::new(),
    };
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.summary,
        "description": format!("{needs}{more}"),
        "parameters": parameters(route),
        "responses": responses(route),
    });
    let body = |name: &str, required: bool| json!({ "required": required, "content": { "application/json": { "schema": reference(name) } } });
    match route.takes {
        Takes::Nothing => {}
        Takes::Json(name) => operation["requestBody"] = body(name, true),
        Takes::Maybe(name) => operation["requestBody"] = body(name, false),
        Takes::Signed | Takes::Binary => {
            operation["requestBody"] = json!({ "required": true, "content": { OCTETS: {} } });
        }
    }
    if route.guard != Guard::Open {
        operation["security"] = json!([{ "bearer": [] }]);
    }
    operation
}

fn operation_id(route: &Route) -> String {
    let words = route.path.trim_start_matches("/api/v1").replace(['/', '{', '}', '.'], "-");
    let words: Vec<&str> = words.split('-').filter(|w| !w.is_empty()).collect();
    format!("{}-{}", route.method.to_ascii_lowercase(), if words.is_empty() { "front".into() } else { words.join("-") })
}

/// The whole description (OpenAPI 3.1).
pub fn document() -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in ROUTES {
        let item = paths.entry(route.path).or_default();
        item.insert(route.method.to_ascii_lowercase(), operation(route));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Bramble coordinator",
            "version": VERSION,
            "description": "Errors are application/problem+json (RFC 9457) with a closed `code`. A method that a path does not have answers 405, an unknown path 404.",
            "license": { "name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|v| references(v, found));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_ids_are_unique() {
        let document = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for reference in found {
            let name = reference.trim_start_matches("#/components/schemas/");
            assert!(document["components"]["schemas"].get(name).is_some(), "{reference}");
        }
        let ids: BTreeSet<String> = ROUTES.iter().map(operation_id).collect();
        assert_eq!(ids.len(), ROUTES.len());
    }
}
