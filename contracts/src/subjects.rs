//! Every NATS subject, bucket and stream name, and the permissions of a device. See docs/adr/0001.

use crate::id::DeviceId;

/// A JetStream key-value bucket; its stream is `KV_<name>`, its subjects `$KV.<name>.<key>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bucket {
    /// The whole signed desired document of one device, by device id.
    Desired,
    /// What a device says of itself, by device id.
    Reported,
    /// Last heartbeat, by device id and agent instance.
    Liveness,
    /// Device records, by device id.
    Devices,
    /// Deployments, by `<tenant>.<name>`.
    Deployments,
    /// Enrolment tokens, by token id.
    Tokens,
    /// Rollouts, by `<tenant>.<name>`.
    Rollouts,
    /// What is published of the agent: the release keys and the catalogue of signed manifests.
    Releases,
    /// Jobs, by `<tenant>.<id>`.
    Jobs,
    /// Leases of coordinators.
    Leases,
    /// The store's format and other facts about the store itself.
    Meta,
}

impl Bucket {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Desired,
        Self::Reported,
        Self::Liveness,
        Self::Devices,
        Self::Deployments,
        Self::Tokens,
        Self::Rollouts,
        Self::Releases,
        Self::Jobs,
        Self::Leases,
        Self::Meta,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Desired => "desired",
            Self::Reported => "reported",
            Self::Liveness => "liveness",
            Self::Devices => "devices",
            Self::Deployments => "deployments",
            Self::Tokens => "tokens",
            Self::Rollouts => "rollouts",
            Self::Releases => "releases",
            Self::Jobs => "jobs",
            Self::Leases => "leases",
            Self::Meta => "meta",
        }
    }

    /// The name of its stream.
    pub fn stream(self) -> String {
        format!("KV_{}", self.name())
    }

    /// The subject of one key.
    pub fn subject(self, key: &str) -> String {
        format!("$KV.{}.{key}", self.name())
    }

    /// The key within a subject of this bucket.
    pub fn key(self, subject: &str) -> Option<&str> {
        subject.strip_prefix("$KV.")?.strip_prefix(self.name())?.strip_prefix('.')
    }
}

/// The audit stream and its subjects (`audit.<tenant>`; `audit._` for what belongs to no tenant).
pub const AUDIT_STREAM: &str = "AUDIT";
/// All subjects of the audit stream.
pub const AUDIT_SUBJECTS: &str = "audit.>";

/// The stream of the binaries that are published; only coordinators reach it.
pub const BLOBS_STREAM: &str = "OBJ_releases";
/// Its subjects: `$O.releases.M.<digest>` says that a binary is whole, `$O.releases.C.<digest>.<n>` is a part of it.
pub const BLOBS_SUBJECTS: &str = "$O.releases.>";

/// Largest report in bytes (`max_msg_size` of `KV_reported`).
pub const REPORT_MAX_BYTES: usize = 64 * 1024;
/// Largest heartbeat in bytes (`max_msg_size` of `KV_liveness`).
pub const LIVENESS_MAX_BYTES: usize = 128;
/// Largest message a device may publish, a report and its headers (`payload` limit in its JWT).
pub const DEVICE_MAX_PAYLOAD: usize = 128 * 1024;

/// Where the coordinator answers devices: `up.<id>.<verb>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Up {
    /// A new user JWT for the same key.
    Renew,
    /// The trust document after the one the device holds.
    Trust,
    /// The time, signed.
    Time,
    /// What is published of the agent; see [`crate::release::ReleaseAsk`].
    Release,
}

impl Up {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Renew, Self::Trust, Self::Time, Self::Release];

    /// Its last subject token.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Renew => "renew",
            Self::Trust => "trust",
            Self::Time => "time",
            Self::Release => "release",
        }
    }
    /// The subject a device asks on.
    pub fn subject(self, device: &DeviceId) -> String {
        format!("up.{device}.{}", self.name())
    }
}

/// What the coordinator subscribes to, to answer every device.
pub const UP_ALL: &str = "up.>";
/// The direct get of a device's own document, as FLEET exports it.
pub const DIRECT_GET_DESIRED: &str = "$JS.API.DIRECT.GET.KV_desired.$KV.desired.*";
/// The same, as DEV imports it.
pub const DEVICE_GET_ALL: &str = "JSF.GET.*";

/// The subject on which a device reads its own document once.
pub fn device_get(device: &DeviceId) -> String {
    format!("JSF.GET.{device}")
}
/// What a device listens to for pushes.
pub fn device_push_all(device: &DeviceId) -> String {
    format!("dev.{device}.>")
}
/// Where a new desired document is pushed.
pub fn device_push_desired(device: &DeviceId) -> String {
    format!("dev.{device}.desired")
}
/// Where a device hears commands.
pub fn command_all(device: &DeviceId) -> String {
    format!("cmd.{device}.>")
}
/// Where one command goes.
pub fn command(device: &DeviceId, verb: &str) -> String {
    format!("cmd.{device}.{verb}")
}
/// The inbox prefix of a device.
pub fn inbox_prefix(device: &DeviceId) -> String {
    format!("_INBOX_{device}")
}
/// The key of a device's heartbeat.
pub fn liveness_key(device: &DeviceId, instance: crate::v1::Instance) -> String {
    format!("{device}.{}", instance.name())
}

/// What a device may do at the broker: nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// Subjects it may publish to.
    pub publish: Vec<String>,
    /// Subjects it may subscribe to.
    pub subscribe: Vec<String>,
    /// How many answers it may give to one request.
    pub responses_max: i64,
    /// For how long, in seconds.
    pub responses_secs: u64,
}

/// The smallest permissions with which `device` can work.
pub fn permissions(device: &DeviceId) -> Permissions {
    Permissions {
        publish: vec![
            device_get(device),
            Bucket::Reported.subject(device.as_str()),
            Bucket::Liveness.subject(&format!("{device}.*")),
            format!("up.{device}.>"),
        ],
        subscribe: vec![device_push_all(device), command_all(device), format!("_INBOX_{device}.>")],
        responses_max: 10_000,
        responses_secs: 600,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_subjects_go_both_ways() {
        for bucket in Bucket::ALL {
            assert_eq!(bucket.key(&bucket.subject("default.web")), Some("default.web"));
        }
        assert_eq!(Bucket::Desired.key("$KV.reported.x"), None);
    }

    #[test]
    fn permissions_name_one_device_only() {
        let (a, b) = (DeviceId::from_entropy([1; 13]), DeviceId::from_entropy([2; 13]));
        let p = permissions(&a);
        for subject in p.publish.iter().chain(&p.subscribe) {
            assert!(subject.contains(a.as_str()) && !subject.contains(b.as_str()), "{subject}");
        }
    }
}
