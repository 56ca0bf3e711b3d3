//! Images: is it there, which one is it, pull it, import one from a tar file.
//!
//! Whether an image should be pulled at all is decided in `core`.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use super::http::{CHANGE, Call, LOOK, Limit, Podman, PodmanError, escape, one_line, parse, refusal};
use super::manifests::{self, Said};
use super::types::{ImageDetail, ImageLine, Info, InfoVersion, Made, NetworkLine, PullLine};
use crate::core::app::without_tag;
use crate::core::disk::Layer;

/// Bounds of one pull. A slow link may take long; a link that says nothing is given up.
#[derive(Clone, Copy, Debug)]
pub struct PullLimits {
    /// Longest time without any word from Podman.
    pub silence: Duration,
    /// Longest time in all.
    pub whole: Duration,
}

impl Default for PullLimits {
    fn default() -> Self {
        Self { silence: Duration::from_secs(15 * 60), whole: Duration::from_secs(6 * 3600) }
    }
}

/// A finished pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// Id of the image.
    pub id: String,
}

/// What happens to containers made of an image that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// They are removed too.
    Removed,
    /// The image stays while there are any.
    Kept,
}

/// A registry may be slow to answer, and a manifest can be long.
const MANIFEST: Limit = Limit { time: Duration::from_secs(60), bytes: 4 << 20 };
/// A line of progress longer than this is not progress.
const LINE_BYTES_MAX: usize = 64 * 1024;

impl Podman {
    /// Podman's version; also the cheapest sign of life.
    pub async fn version(&self) -> Result<String, PodmanError> {
        Ok(self.ask_json::<InfoVersion>(Call::get("tell its version", "/version"), LOOK).await?.version)
    }

    /// How Podman is set up.
    pub async fn info(&self) -> Result<Info, PodmanError> {
        self.ask_json(Call::get("tell about itself", "/info"), LOOK).await
    }

    /// The bridges of all networks there are.
    pub async fn bridges(&self) -> Result<Vec<String>, PodmanError> {
        let networks: Vec<NetworkLine> = self.ask_json(Call::get("list networks", "/networks/json"), LOOK).await?;
        let bridges = networks.into_iter().map(|network| network.network_interface);
        Ok(bridges.filter(|bridge| !bridge.is_empty()).collect())
    }

    /// Whether the image is in the store.
    pub async fn image_exists(&self, reference: &str) -> Result<bool, PodmanError> {
        let call = Call::get(format!("look for image {reference}"), format!("/images/{}/exists", escape(reference)));
        match self.ask(call, LOOK).await {
            Ok(_) => Ok(true),
            Err(err) if err.is_not_found() => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// The image a reference names now; `None` when it is not in the store.
    pub async fn image(&self, reference: &str) -> Result<Option<ImageDetail>, PodmanError> {
        let call = Call::get(format!("inspect image {reference}"), format!("/images/{}/json", escape(reference)));
        match self.ask_json(call, LOOK).await {
            Ok(image) => Ok(Some(image)),
            Err(err) if err.is_not_found() || err.is_image_unknown() => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Pulls an image; `progress` hears every line. Dropping the future cancels the pull.
    pub async fn pull(
        &self,
        reference: &str,
        limits: PullLimits,
        mut progress: impl FnMut(&str) + Send,
    ) -> Result<Pulled, PodmanError> {
        let what = format!("pull {reference}");
        let path = format!("/images/pull?reference={}&policy=always", escape(reference));
        let whole = async {
            let opening = Limit { time: limits.silence, bytes: 0 };
            let mut body = self.open(Call::post(what.clone(), path), opening).await?.into_body();
            let mut line = BytesMut::new();
            let mut id = String::new();
            loop {
                let frame = match tokio::time::timeout(limits.silence, body.frame()).await {
                    Ok(Some(frame)) => frame.map_err(|err| PodmanError::Broken { what: what.clone(), err })?,
                    Ok(None) => break,
                    Err(_) => return Err(PodmanError::TimedOut { what: what.clone(), after: limits.silence }),
                };
                let Ok(data) = frame.into_data() else { continue };
                line.extend_from_slice(&data);
                while let Some(end) = line.iter().position(|b| *b == b'\n') {
                    let one = line.split_to(end + 1);
                    read_line(&what, &one, &mut id, &mut progress)?;
                }
                if line.len() > LINE_BYTES_MAX {
                    return Err(PodmanError::TooLarge { what: what.clone(), limit: LINE_BYTES_MAX });
                }
            }
            read_line(&what, &line, &mut id, &mut progress)?;
            if id.is_empty() {
                return Err(failed_pull(&what, "the stream ended before the image was complete"));
            }
            Ok(Pulled { id })
        };
        match tokio::time::timeout(limits.whole, whole).await {
            Ok(pulled) => pulled,
            Err(_) => Err(PodmanError::TimedOut { what: what.clone(), after: limits.whole }),
        }
    }

    /// Every image in the store. Podman 4.3 answers with an error when one of them is damaged.
    pub async fn images(&self) -> Result<Vec<ImageLine>, PodmanError> {
        self.ask_json(Call::get("list images", "/images/json"), LOOK).await
    }

    /// Removes an image; one that is gone already is fine.
    pub async fn image_remove(&self, reference: &str, users: Users) -> Result<(), PodmanError> {
        let force = users == Users::Removed;
        let path = format!("/images/{}?force={force}", escape(reference));
        match self.ask(Call::delete(format!("remove image {reference}"), path), CHANGE).await {
            Ok(_) => Ok(()),
            Err(err) if err.is_not_found() || err.is_image_unknown() => Ok(()),
            Err(err) => Err(err),
        }
    }

    /// Layers of an image in its registry, without fetching them; `None` when the registry's answer does not say.
    pub async fn remote_layers(&self, reference: &str) -> Result<Option<Vec<Layer>>, PodmanError> {
        let mut name = reference.to_owned();
        // An index names the manifest for this machine, and that one the layers.
        for _ in 0..2 {
            let what = format!("ask the registry about {name}");
            let path = format!("/manifests/{}/json", escape(&name));
            let (status, body) = self.ask_any(Call::get(what.clone(), path), MANIFEST).await?;
            match manifests::read(status.is_success(), &body) {
                Said::Layers(layers) => return Ok(Some(layers)),
                Said::Index(digest) => name = format!("{}@{digest}", without_tag(reference)),
                Said::Nothing if status.is_success() => return Ok(None),
                Said::Nothing => return Err(refusal(what, status, &body)),
            }
        }
        Ok(None)
    }

    /// Makes an image of one layer from a tar file. For images that are built on this machine, and for tests.
    pub async fn import(&self, reference: &str, tar: Bytes, changes: &[String]) -> Result<String, PodmanError> {
        let mut path = format!("/images/import?reference={}", escape(reference));
        for change in changes {
            path.push_str(&format!("&changes={}", escape(change)));
        }
        let call = Call::post(format!("import image {reference}"), path).raw("application/x-tar", tar);
        let id = self.ask_json::<Made>(call, CHANGE).await?.id;
        Ok(id.strip_prefix("sha256:").unwrap_or(&id).to_owned())
    }
}

fn read_line(
    what: &str,
    line: &[u8],
    id: &mut String,
    progress: &mut (impl FnMut(&str) + Send),
) -> Result<(), PodmanError> {
    if line.trim_ascii().is_empty() {
        return Ok(());
    }
    let parsed: PullLine = parse(what, line)?;
    if !parsed.error.is_empty() {
        return Err(failed_pull(what, &parsed.error));
    }
    if !parsed.stream.trim().is_empty() {
        progress(parsed.stream.trim());
    }
    if !parsed.id.is_empty() {
        *id = parsed.id;
    }
    Ok(())
}

fn failed_pull(what: &str, message: &str) -> PodmanError {
    PodmanError::Refused { what: what.to_owned(), status: 200, message: one_line(message), cause: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_captured_failing_pull_is_an_error_with_the_reason() {
        let lines = include_bytes!("../captured/pull_failed.ndjson");
        let (mut id, mut heard) = (String::new(), Vec::new());
        let err = lines
            .split_inclusive(|b| *b == b'\n')
            .try_for_each(|line| read_line("pull x", line, &mut id, &mut |text: &str| heard.push(text.to_owned())))
            .unwrap_err();
        assert!(err.to_string().contains("connection refused"), "{err}");
        assert_eq!(heard, ["Trying to pull 127.0.0.1:5999/nope:1..."]);
        assert!(id.is_empty());
    }

    #[test]
    fn a_captured_pull_of_podman_5_4_ends_with_the_id() {
        let lines = include_bytes!("../captured/podman-5.4/pull_done.ndjson");
        let (mut id, mut heard) = (String::new(), 0);
        let read = lines
            .split_inclusive(|b| *b == b'\n')
            .try_for_each(|line| read_line("pull x", line, &mut id, &mut |_: &str| heard += 1));
        assert!(read.is_ok() && heard == 5, "{heard}");
        assert_eq!(id, "570b42a542a77de7aaa59f78630d38f7dd0219e5df6018d68acdb38a3fc93e2e");
    }
}
