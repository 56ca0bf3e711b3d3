//! Devices, deployments and reports for the tests of this folder.

use bramble_contracts::{
    Labels, Revision,
    api::DeviceState,
    bytes::Fixed,
    id::{DeviceId, Tenant, Uid},
    trust::TrustDocument,
    v1::{Deployment, DeviceFacts, Health, Instance, Manifest},
    v2::ClockReport,
    v3::Report,
};
use serde_json::json;

use super::record::{DeploymentRecord, DeviceRecord};

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect()
}

pub(crate) fn device(number: u8, pairs: &[(&str, &str)]) -> DeviceRecord {
    DeviceRecord {
        id: DeviceId::from_entropy([number; 13]),
        tenant: Tenant::default(),
        name: format!("pi-{number}").parse().unwrap(),
        labels: labels(pairs),
        state: DeviceState::Active,
        public_key: Some(format!("U{number}")),
        token: None,
        newest_document: 1,
        created_ms: 0,
        quarantine: None,
        hold: None,
    }
}

pub(crate) fn deployment(name: &str, label: (&str, &str), port: u16) -> Deployment {
    let manifest: Manifest = serde_json::from_value(json!({
        "apiVersion": "bramble/v1", "kind": "Deployment",
        "metadata": { "name": name },
        "spec": {
            "selector": { "matchLabels": { (label.0): label.1 } },
            "containers": [{ "name": "main", "image": "localhost/app:1", "ports": [{ "host": port, "container": 80 }] }],
        },
    }))
    .unwrap();
    manifest.into()
}

pub(crate) fn record(name: &str, label: (&str, &str), port: u16, age: u8) -> DeploymentRecord {
    DeploymentRecord {
        uid: Uid::from_entropy([age; 13]),
        revision: Revision(1),
        deployment: deployment(name, label, port),
        created_ms: u64::from(age),
        updated_ms: u64::from(age),
    }
}

pub(crate) fn report(device: &DeviceRecord, generation: u64) -> Report {
    Report {
        device: device.id.clone(),
        session: Fixed([1; 8]),
        instance: Instance::A,
        seq: 1,
        generation: bramble_contracts::Generation(generation),
        newest_document: 1,
        trust_version: 1,
        agent: "0.1.0".parse().unwrap(),
        health: Health::Healthy,
        facts: DeviceFacts::default(),
        clock: ClockReport::default(),
        program: Default::default(),
        os: Default::default(),
        apps: vec![],
        refused: vec![],
        alarms: vec![],
    }
}

/// A trust document of one fleet key, and the key.
pub(crate) fn trust() -> (TrustDocument, ed25519_dalek::SigningKey) {
    let key = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let listed = bramble_contracts::trust::TrustedKey {
        role: bramble_contracts::signed::Role::Fleet,
        key: bramble_contracts::signed::public_key(&key),
    };
    let document = TrustDocument {
        version: 1,
        root_threshold: 1,
        keys: vec![listed],
        ca_bundle: String::new(),
        coordinators: vec![],
        brokers: vec![],
    };
    (document, key)
}
