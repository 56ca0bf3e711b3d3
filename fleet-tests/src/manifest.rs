//! Manifests for cases, as JSON values to be changed at will. The default app is the demo image on one host port.

use serde_json::{Value, json};

/// Every device of the harness has this label unless its setup says otherwise.
pub const LABEL: (&str, &str) = ("site", "test");

/// The demo image.
#[must_use]
pub fn image(version: u32) -> String {
    format!("localhost/bramble-hello:{version}")
}

/// A deployment for all devices, with these containers.
#[must_use]
pub fn deployment(name: &str, containers: &[Value]) -> Value {
    json!({
        "apiVersion": "bramble/v1",
        "kind": "Deployment",
        "metadata": { "name": name },
        "spec": {
            "selector": { "matchLabels": { (LABEL.0): LABEL.1 } },
            "containers": containers,
            "lifecycle": { "gracePeriod": "5s" },
        },
    })
}

/// A container of the demo image that answers on a host port.
#[must_use]
pub fn server(name: &str, port: u16, version: u32) -> Value {
    json!({ "name": name, "image": image(version), "ports": [{ "host": port, "container": 80 }] })
}

/// A container of the demo image that runs these arguments.
#[must_use]
pub fn program(name: &str, args: &[&str]) -> Value {
    json!({ "name": name, "image": image(1), "args": args })
}

/// One demo app on one host port.
#[must_use]
pub fn hello(name: &str, port: u16, version: u32) -> Value {
    deployment(name, &[server("web", port, version)])
}

/// The same manifest for these devices only, by name.
#[must_use]
pub fn only_for(mut manifest: Value, devices: &[&str]) -> Value {
    manifest["spec"]["selector"] = json!({ "devices": devices });
    manifest
}

/// The same manifest with init containers.
#[must_use]
pub fn with_init(mut manifest: Value, init: &[Value]) -> Value {
    manifest["spec"]["initContainers"] = json!(init);
    manifest
}
