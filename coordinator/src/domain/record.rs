//! What the store keeps of devices, deployments and tokens: versioned JSON, so that a newer coordinator reads it and
//! an older one refuses it instead of guessing.
//!
//! Decides: the layout. Deliberately does not: say what a record that cannot be read means; that is an alarm on its
//! object, never a missing object (`fleet`).

use bramble_contracts::{
    Labels, Revision,
    api::DeviceState,
    bytes::Sha256,
    id::{DeviceId, Name, Tenant, Uid},
    v1::Deployment,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The frame of every record. A record that gets a second layout gets a variant, and a conversion to the newest.
#[derive(Serialize, Deserialize)]
#[serde(tag = "format")]
enum Versioned<T> {
    #[serde(rename = "1")]
    V1(T),
}

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the record cannot be read ({why}): restore it from a backup, or upgrade the coordinator if it is newer")]
pub struct Unreadable {
    /// The parser's reason.
    pub why: String,
}

/// A record as bytes for the store.
pub fn encode<T: Serialize>(record: &T) -> Bytes {
    serde_json::to_vec(&Versioned::V1(record)).expect("invariant: our records always fit JSON").into()
}

/// A record out of the store.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unreadable> {
    match serde_json::from_slice(bytes) {
        Ok(Versioned::V1(record)) => Ok(record),
        Err(err) => Err(Unreadable { why: err.to_string() }),
    }
}

/// Why something was done to a device, when, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// In words.
    pub reason: String,
    /// Milliseconds since 1970.
    pub since_ms: u64,
    /// A person's or token's name, or `coordinator`.
    pub by: String,
}

/// A device, by its id in bucket `devices`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceRecord {
    /// For ever.
    pub id: DeviceId,
    /// Whose.
    pub tenant: Tenant,
    /// Unique in the tenant.
    pub name: Name,
    /// What selectors see.
    pub labels: Labels,
    /// Where in its life.
    pub state: DeviceState,
    /// Its nkey; unknown for a device that was taken over from its own document.
    pub public_key: Option<String>,
    /// The token it came with; unknown for a device that was taken over.
    pub token: Option<Uid>,
    /// The newest desired document it said it reads.
    pub newest_document: u8,
    /// When it enrolled, in milliseconds since 1970.
    pub created_ms: u64,
    /// Why it is quarantined, while it is.
    pub quarantine: Option<Note>,
    /// Why it is on hold, while it is: nothing but a copy of its own document is written to it.
    pub hold: Option<Note>,
}

/// A deployment, by `<tenant>.<name>` in bucket `deployments`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentRecord {
    /// For ever; made anew, it has another one.
    pub uid: Uid,
    /// Grows with every change.
    pub revision: Revision,
    /// As it was applied, defaults filled in.
    pub deployment: Deployment,
    /// When it was first applied, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it last changed, in milliseconds since 1970.
    pub updated_ms: u64,
}

impl DeploymentRecord {
    /// Its key in the bucket.
    pub fn key(&self) -> String {
        deployment_key(&self.deployment.metadata.tenant, &self.deployment.metadata.name)
    }
    /// Whose.
    pub fn tenant(&self) -> &Tenant {
        &self.deployment.metadata.tenant
    }
    /// What it is called.
    pub fn name(&self) -> &Name {
        &self.deployment.metadata.name
    }
    /// Older ones come first, where two want the same thing.
    pub fn age(&self) -> (u64, &Uid) {
        (self.created_ms, &self.uid)
    }
}

/// The key of a deployment in bucket `deployments`.
pub fn deployment_key(tenant: &Tenant, name: &Name) -> String {
    format!("{tenant}.{name}")
}

/// The key in bucket `meta` that reserves a device's name, so that two devices never get the same.
pub fn name_key(tenant: &Tenant, name: &Name) -> String {
    format!("device-name.{tenant}.{name}")
}

/// One use of a token: bound to the first key that presented it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenUse {
    /// The device's nkey.
    pub public_key: String,
    /// The device it became.
    pub device: DeviceId,
}

/// An enrolment token, by its id in bucket `tokens`. Never its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRecord {
    /// Which.
    pub id: Uid,
    /// Whose devices it makes.
    pub tenant: Tenant,
    /// Hash of the secret.
    pub secret_hash: Sha256,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// Until when it can be used, in milliseconds since 1970.
    pub expires_ms: u64,
    /// Uses in all.
    pub uses: u32,
    /// Uses taken.
    pub used: Vec<TokenUse>,
    /// Its devices need no approval.
    pub auto_approve: bool,
    /// First labels of its devices.
    pub labels: Labels,
    /// It was revoked.
    pub revoked: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_says_its_format() {
        let record = DeviceRecord {
            id: DeviceId::from_entropy([1; 13]),
            tenant: Tenant::default(),
            name: "pi-1".parse().unwrap(),
            labels: Labels::new(),
            state: DeviceState::Active,
            public_key: Some("UABC".into()),
            token: None,
            newest_document: 1,
            created_ms: 5,
            quarantine: None,
            hold: None,
        };
        let bytes = encode(&record);
        assert!(std::str::from_utf8(&bytes).unwrap().contains("\"format\":\"1\""));
        assert_eq!(decode::<DeviceRecord>(&bytes), Ok(record));
        for bad in ["", "{}", "{\"format\":\"2\"}", "[1]"] {
            assert!(decode::<DeviceRecord>(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
