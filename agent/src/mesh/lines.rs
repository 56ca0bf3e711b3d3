//! Podman's log output cut into lines with their times; pure.
//!
//! Decides where a line ends and what its time is. Does not decide which lines are sent.

use std::collections::BTreeMap;

use bramble_contracts::Name;
use bramble_contracts::v1::FrameBody;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::supervise::OutputStream;

/// A longer line is cut into several.
const LINE_MAX: usize = 16 * 1024;

/// Beginnings of lines that have not ended yet, by container and stream.
#[derive(Default)]
pub(crate) struct Lines(BTreeMap<(String, bool), Vec<u8>>);

impl Lines {
    /// The lines that `bytes` completes.
    pub(crate) fn push(&mut self, container: &str, stream: OutputStream, bytes: &[u8]) -> Vec<FrameBody> {
        let stderr = stream == OutputStream::Err;
        let mut pending = self.0.remove(&(container.to_owned(), stderr)).unwrap_or_default();
        pending.extend_from_slice(bytes);
        let mut out = Vec::new();
        let mut rest = pending.as_slice();
        loop {
            let (line, after) = match rest.iter().position(|byte| *byte == b'\n') {
                Some(end) if end <= LINE_MAX => (&rest[..end], &rest[end + 1..]),
                Some(_) => rest.split_at(LINE_MAX),
                None if rest.len() > LINE_MAX => rest.split_at(LINE_MAX),
                None => break,
            };
            out.extend(read(container, stderr, line));
            rest = after;
        }
        if !rest.is_empty() {
            self.0.insert((container.to_owned(), stderr), rest.to_vec());
        }
        out
    }

    /// What never got a line end.
    pub(crate) fn rest(&mut self) -> Vec<FrameBody> {
        let all = std::mem::take(&mut self.0);
        all.into_iter().filter_map(|((container, stderr), line)| read(&container, stderr, &line)).collect()
    }
}

/// `2026-01-02T03:04:05.6+01:00 text`; a line without a time has time 0.
fn read(container: &str, stderr: bool, line: &[u8]) -> Option<FrameBody> {
    let container: Name = container.parse().ok()?;
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r');
    let stamped = text.split_once(' ').unwrap_or((text, ""));
    let (at_ms, text) = match OffsetDateTime::parse(stamped.0, &Rfc3339) {
        Ok(at) => (u64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0), stamped.1),
        Err(_) => (0, text),
    };
    Some(FrameBody::Line { container, at_ms, stderr, text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    use super::*;

    fn texts(bodies: &[FrameBody]) -> Vec<(u64, String)> {
        let read = |body: &FrameBody| match body {
            FrameBody::Line { at_ms, text, .. } => (*at_ms, text.clone()),
            other => panic!("{other:?}"),
        };
        bodies.iter().map(read).collect()
    }

    #[test]
    fn times_are_taken_off() {
        let mut lines = Lines::default();
        let got = lines.push("web", OutputStream::Out, b"1970-01-01T01:00:01.5+01:00 hello you\nbare\n");
        assert_eq!(texts(&got), [(1500, "hello you".into()), (0, "bare".into())]);
        assert!(lines.push("web", OutputStream::Out, b"half").is_empty());
        assert!(lines.push("web", OutputStream::Err, b"other").is_empty());
        assert_eq!(texts(&lines.rest()), [(0, "half".into()), (0, "other".into())]);
    }

    #[test]
    fn an_endless_line_is_cut() {
        let got = Lines::default().push("web", OutputStream::Out, &vec![b'x'; 3 * LINE_MAX + 1]);
        assert_eq!(got.len(), 3);
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(texts_in in prop::collection::vec("[a-z]{0,20}", 0..20), cut in any::<prop::sample::Index>()) {
            let whole: String = texts_in.iter().map(|line| format!("{line}\n")).collect();
            let at = cut.index(whole.len() + 1);
            let mut lines = Lines::default();
            let mut got = lines.push("c", OutputStream::Out, &whole.as_bytes()[..at]);
            got.extend(lines.push("c", OutputStream::Out, &whole.as_bytes()[at..]));
            got.extend(lines.rest());
            let got: Vec<String> = texts(&got).into_iter().map(|(_, text)| text).collect();
            prop_assert_eq!(got, texts_in);
        }
    }
}
