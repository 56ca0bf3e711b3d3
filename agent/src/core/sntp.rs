//! The 48 bytes of SNTP (RFC 4330, 5905): a question that nobody off the path can answer, and what an answer says.
//!
//! Decides what counts as an answer. The device's wall clock takes no part: the question carries random bits where a
//! clock would stand (draft-ietf-ntp-data-minimization), and the way there and back is measured by uptime.

use super::clock::Sample;

/// Length of question and answer; extensions after it are not read.
pub const BYTES: usize = 48;
/// From NTP's epoch (1900) to 1970, in seconds.
const TO_1970: i64 = 2_208_988_800;
/// An era of NTP: its seconds are counted in 32 bits.
const ERA: i64 = 1 << 32;

/// Why bytes are no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTime {
    /// Too short, or no server's answer.
    #[error("not an answer of an NTP server")]
    NotAnAnswer,
    /// To somebody else's question, or forged.
    #[error("an answer to another question")]
    OtherQuestion,
    /// A server that says no: too many questions, or not to us.
    #[error("the server refuses (kiss of death)")]
    Kiss,
    /// It does not know the time itself.
    #[error("the server does not know the time")]
    Unsynchronised,
    /// It says that it answered before it was asked.
    #[error("the server's two times contradict each other")]
    Absurd,
}

/// A question with these random bits.
pub fn question(nonce: [u8; 8]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    // Version 4, client.
    bytes[0] = 0b00_100_011;
    bytes[40..].copy_from_slice(&nonce);
    bytes
}

/// Reads the answer to the question with that nonce, sent and received at these uptimes. `pivot_ms` (since 1970) says in
/// which of NTP's eras of 136 years we live: the nearest to it.
pub fn answer(bytes: &[u8], nonce: [u8; 8], sent_up_ms: u64, got_up_ms: u64, pivot_ms: u64) -> Result<Sample, NotTime> {
    let Some(bytes) = bytes.first_chunk::<BYTES>() else { return Err(NotTime::NotAnAnswer) };
    let (leap, mode, stratum) = (bytes[0] >> 6, bytes[0] & 0b111, bytes[1]);
    if mode != 4 {
        return Err(NotTime::NotAnAnswer);
    }
    if bytes[24..32] != nonce {
        return Err(NotTime::OtherQuestion);
    }
    if stratum == 0 {
        return Err(NotTime::Kiss);
    }
    let (received, sent) = (stamp(&bytes[32..40], pivot_ms), stamp(&bytes[40..48], pivot_ms));
    let (Some(received), Some(sent)) = (received, sent) else { return Err(NotTime::Unsynchronised) };
    if leap == 3 || stratum > 15 {
        return Err(NotTime::Unsynchronised);
    }
    let at_server = sent.checked_sub(received).ok_or(NotTime::Absurd)?;
    let under_way = got_up_ms.saturating_sub(sent_up_ms);
    // Both clocks tick in milliseconds: a server may seem to have taken one longer than the whole way took.
    let round_trip_ms = (under_way + 1).checked_sub(at_server).ok_or(NotTime::Absurd)?;
    Ok(Sample { unix_ms: received + at_server / 2, up_ms: sent_up_ms + under_way / 2, round_trip_ms })
}

/// A timestamp of NTP in milliseconds since 1970; `None` where there is none.
fn stamp(bytes: &[u8], pivot_ms: u64) -> Option<u64> {
    let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (secs, fraction) = (i64::from(word(0)?), u64::from(word(4)?));
    if secs == 0 && fraction == 0 {
        return None;
    }
    let pivot = i64::try_from(pivot_ms / 1000).ok()?;
    let first = secs - TO_1970;
    let eras = (pivot - first + ERA / 2).div_euclid(ERA);
    let unix = u64::try_from(first.checked_add(eras.checked_mul(ERA)?)?).ok()?;
    Some(unix.checked_mul(1000)? + ((fraction * 1000) >> 32))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, proptest};

    use super::*;

    const NONCE: [u8; 8] = *b"12345678";
    const PIVOT: u64 = 1_780_000_000_000;

    /// What a server says at `unix_ms`, which it took `took` to say.
    fn said(unix_ms: u64, took: u64) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        (bytes[0], bytes[1]) = (0b00_100_100, 2);
        bytes[24..32].copy_from_slice(&NONCE);
        for (at, ms) in [(32, unix_ms), (40, unix_ms + took)] {
            let secs = (ms / 1000 + u64::try_from(TO_1970).unwrap()) & 0xffff_ffff;
            bytes[at..at + 4].copy_from_slice(&u32::try_from(secs).unwrap().to_be_bytes());
            let fraction = u32::try_from((((ms % 1000) << 32) / 1000) + 1).unwrap();
            bytes[at + 4..at + 8].copy_from_slice(&fraction.to_be_bytes());
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Sample, NotTime> {
        answer(bytes, NONCE, 1_000, 1_100, PIVOT)
    }

    #[test]
    fn the_middle_of_the_way_is_what_counts() {
        let want = Sample { unix_ms: PIVOT + 5_010, up_ms: 1_050, round_trip_ms: 81 };
        assert_eq!(read(&said(PIVOT + 5_000, 20)), Ok(want));
        assert_eq!(read(&said(2_100_000_000_000, 0)).unwrap().unix_ms, 2_100_000_000_000, "after 2036");
        assert_eq!(read(&said(0, 0)).unwrap().unix_ms, 0, "1970");
    }

    #[test]
    fn what_is_no_answer_to_this_question_says_nothing() {
        let change = |at: usize, to: u8| {
            let mut bytes = said(PIVOT, 0);
            bytes[at] = to;
            read(&bytes)
        };
        assert_eq!(change(24, 0), Err(NotTime::OtherQuestion));
        assert_eq!(change(0, 0b00_100_011), Err(NotTime::NotAnAnswer), "our own question sent back");
        assert_eq!(change(0, 0b11_100_100), Err(NotTime::Unsynchronised));
        assert_eq!(change(1, 0), Err(NotTime::Kiss));
        assert_eq!(change(1, 16), Err(NotTime::Unsynchronised));
        assert_eq!(read(&said(PIVOT, 0)[..47]), Err(NotTime::NotAnAnswer));
        assert_eq!(read(&said(PIVOT, 200)), Err(NotTime::Absurd), "longer at the server than under way");
        let mut empty = said(PIVOT, 0);
        empty[32..].fill(0);
        assert_eq!(read(&empty), Err(NotTime::Unsynchronised));
    }

    #[test]
    fn a_question_says_nothing_of_the_device() {
        let bytes = question(NONCE);
        assert_eq!((bytes[0], &bytes[40..]), (0x23, &NONCE[..]));
        assert!(bytes[1..40].iter().all(|byte| *byte == 0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_an_error(
            bytes in prop::collection::vec(any::<u8>(), 0..80), sent in any::<u64>(), got in 0u64..1 << 62, pivot in any::<u64>()
        ) {
            if let Ok(sample) = answer(&bytes, NONCE, sent.min(got), got, pivot) {
                prop_assert!(sample.up_ms <= got);
            }
        }
    }
}
