//! What is asked and kept to judge a release: keys, manifest, timestamp; in the order of docs/adr/0012. `core::upgrade::judge`
//! judges.
//!
//! Decides who is told of what is refused, and that what somebody on the way could have done says nothing of a release.

use std::fmt::Display;

use bramble_contracts::bytes::Sha256;
use bramble_contracts::release::TimestampError;
use bramble_contracts::release::{ReleaseAnswer, ReleaseAsk, ReleaseError, ReleaseKeys, ReleaseKeysError, Target};
use bramble_contracts::signed::VerifyError;
use bramble_contracts::v1::RefusalKind;
use bramble_contracts::v2::AgentWish;

use super::Site;
use crate::core::upgrade::{Admission, Failure, Fault, JudgeError, Papers, judge, next_keys};
use crate::host::clock;
use crate::host::release::Files;
use crate::mesh::{Releases, Unreachable};

/// So many answers with keys are followed; a coordinator that never comes to an end is left.
const ROUNDS_MAX: u32 = 32;

/// Fetches what is needed, and judges.
pub(super) async fn fetch_and_judge(
    site: &Site,
    wish: &AgentWish,
    target: &Target,
    floor: u64,
) -> Result<Admission, Failure> {
    let fetch = Fetch { releases: &site.releases, files: &site.files };
    let pin = site.config.upgrade.keys_pin.unwrap_or(wish.keys_pin);
    let keys = fetch.keys(&pin).await?;
    let manifest = fetch.manifest(&wish.manifest).await?;
    let stamp = fetch.stamp(&wish.manifest).await?;
    let try_it = || {
        let papers =
            Papers { manifest: &manifest, stamp: &stamp, keys: &keys, target, floor, now_ms: clock::wall_ms() };
        judge(wish, &papers, |role, id| site.releases.trusted(role, id))
    };
    let mut judged = try_it();
    if let Err(JudgeError::Stamp(TimestampError::Signature(VerifyError::UnknownKey { .. }))) = judged {
        // A key of the coordinator that came after the trust document held here.
        site.releases.ask_trust().await;
        judged = try_it();
    }
    judged.map_err(|err| {
        site.releases.refuse(kind(&err), &err.to_string());
        Failure::from(&err)
    })
}

struct Fetch<'a> {
    releases: &'a Releases,
    files: &'a Files,
}

fn nobody(why: &dyn Display) -> Failure {
    Failure::new(Fault::Nobody, why.to_string())
}

impl Fetch<'_> {
    /// The newest keys there are; those held are followed one by one. Whoever offers wrong ones is not the release.
    async fn keys(&self, pin: &Sha256) -> Result<ReleaseKeys, Failure> {
        let mut held = self.files.keys().map_err(|err| nobody(&err))?;
        for _ in 0..ROUNDS_MAX {
            let after = held.as_ref().map_or(0, |keys| keys.version);
            let offered = match self.ask(&ReleaseAsk::Keys { after }).await? {
                ReleaseAnswer::Keys(offered) => offered,
                other => return Err(nobody(&strange(&other))),
            };
            if offered.is_empty() {
                break;
            }
            for signed in offered {
                let next = next_keys(held.as_ref(), pin, &signed).map_err(|err| {
                    self.releases.refuse(kind_of_keys(&err), &err.to_string());
                    nobody(&err)
                })?;
                let (files, version) = (self.files.clone(), next.version);
                let kept = tokio::task::spawn_blocking(move || files.keep_keys(&signed)).await;
                kept.map_err(|err| nobody(&err))?.map_err(|err| nobody(&err))?;
                tracing::info!(version, "release keys followed");
                held = Some(next);
            }
        }
        held.ok_or_else(|| nobody(&"the coordinator has no release keys yet"))
    }

    async fn manifest(&self, manifest: &Sha256) -> Result<Vec<u8>, Failure> {
        match self.ask(&ReleaseAsk::Manifest { manifest: *manifest }).await? {
            ReleaseAnswer::Manifest(signed) => Ok(signed),
            other => Err(nobody(&strange(&other))),
        }
    }

    async fn stamp(&self, manifest: &Sha256) -> Result<Vec<u8>, Failure> {
        match self.ask(&ReleaseAsk::Timestamp { manifest: *manifest }).await? {
            ReleaseAnswer::Timestamp(stamp) => Ok(stamp),
            other => Err(nobody(&strange(&other))),
        }
    }

    async fn ask(&self, ask: &ReleaseAsk) -> Result<ReleaseAnswer, Failure> {
        match self.releases.ask(ask).await {
            Ok(ReleaseAnswer::Absent(why)) => Err(nobody(&format!("the coordinator does not have it: {why}"))),
            Ok(ReleaseAnswer::Later(why)) => Err(nobody(&format!("the coordinator cannot tell now: {why}"))),
            Ok(answer) => Ok(answer),
            Err(Unreachable(why)) => Err(nobody(&why)),
        }
    }
}

fn kind_of_keys(err: &ReleaseKeysError) -> RefusalKind {
    match err {
        ReleaseKeysError::Signatures { .. } | ReleaseKeysError::Pin { .. } => RefusalKind::Signature,
        ReleaseKeysError::Version { .. } => RefusalKind::OlderGeneration,
        ReleaseKeysError::Layout
        | ReleaseKeysError::Contents(_)
        | ReleaseKeysError::Threshold { .. }
        | ReleaseKeysError::WeakKey { .. }
        | ReleaseKeysError::TwoPurposes(_) => RefusalKind::Unreadable,
    }
}

fn kind(err: &JudgeError) -> RefusalKind {
    match err {
        JudgeError::OtherBytes { .. }
        | JudgeError::Stamp(TimestampError::Signature(_))
        | JudgeError::Release(ReleaseError::UnknownKey { .. } | ReleaseError::Signatures { .. }) => {
            RefusalKind::Signature
        }
        JudgeError::Release(ReleaseError::BelowFloor { .. }) | JudgeError::KeysBehind { .. } => {
            RefusalKind::OlderGeneration
        }
        JudgeError::StampSequence { .. } | JudgeError::OtherRelease { .. } => RefusalKind::Forked,
        JudgeError::Stamp(TimestampError::Expired { .. }) => RefusalKind::StaleCommand,
        JudgeError::Stamp(TimestampError::OtherManifest(_) | TimestampError::TooLong { .. })
        | JudgeError::Release(
            ReleaseError::TooLarge { .. }
            | ReleaseError::Layout
            | ReleaseError::Contents(_)
            | ReleaseError::Product(_)
            | ReleaseError::Unsound(_)
            | ReleaseError::Expired { .. }
            | ReleaseError::NoArtifact { .. },
        ) => RefusalKind::Unreadable,
    }
}

fn strange(answer: &ReleaseAnswer) -> String {
    let what = match answer {
        ReleaseAnswer::Keys(_) => "keys",
        ReleaseAnswer::Manifest(_) => "a manifest",
        ReleaseAnswer::Timestamp(_) => "a timestamp",
        ReleaseAnswer::Chunk(_) => "a part of a binary",
        ReleaseAnswer::Absent(_) | ReleaseAnswer::Later(_) => "nothing",
    };
    format!("the coordinator was asked for something else and answers with {what}")
}
