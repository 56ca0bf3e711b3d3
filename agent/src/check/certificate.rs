//! The dates of a certificate, read from its DER: nothing else of it is looked at.
//!
//! Who may be trusted is decided by rustls when it connects; this only tells people how long it will last.

use time::{Date, Month, OffsetDateTime, Time};

/// From when to when it is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: OffsetDateTime,
    pub(super) to: OffsetDateTime,
}

/// The validity of an X.509 certificate (RFC 5280, 4.1); none when the bytes are something else.
pub(super) fn validity(der: &[u8]) -> Option<Validity> {
    let (_, certificate, _) = element(der)?;
    let (_, mut rest, _) = element(certificate)?;
    // The version is there in all but the oldest: a context tag, before the serial number.
    let (tag, _, after) = element(rest)?;
    if tag == 0xa0 {
        rest = after;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        (_, _, rest) = element(rest)?;
    }
    let (_, validity, _) = element(rest)?;
    let (tag, from, after) = element(validity)?;
    let from = moment(tag, from)?;
    let (tag, to, _) = element(after)?;
    Some(Validity { from, to: moment(tag, to)? })
}

/// Tag, content and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, der) = der.split_first()?;
    let (&first, der) = der.split_first()?;
    let (length, der) = match first {
        short @ 0..0x80 => (usize::from(short), der),
        0x81..=0x84 => {
            let (bytes, der) = der.split_at_checked(usize::from(first - 0x80))?;
            (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), der)
        }
        0x80 | 0x85.. => return None,
    };
    let (content, rest) = der.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDHHMMSSZ` (UTCTime) or `YYYYMMDDHHMMSSZ` (GeneralizedTime).
fn moment(tag: u8, text: &[u8]) -> Option<OffsetDateTime> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let number = |from: usize| text.get(from..from + 2)?.parse::<u8>().ok();
    let (year, rest) = match tag {
        0x17 => {
            let short = i32::from(number(0)?);
            (if short < 50 { 2000 + short } else { 1900 + short }, 2)
        }
        0x18 => (text.get(..4)?.parse().ok()?, 4),
        _ => return None,
    };
    let date = Date::from_calendar_date(year, Month::try_from(number(rest)?).ok()?, number(rest + 2)?).ok()?;
    let time = Time::from_hms(number(rest + 4)?, number(rest + 6)?, number(rest + 8)?).ok()?;
    Some(OffsetDateTime::new_utc(date, time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_come_out_as_they_went_in_and_rubbish_is_none() {
        for (from, to) in [((2024, 1, 2), (2034, 5, 6)), ((1999, 12, 31), (2099, 1, 1))] {
            let mut params = rcgen::CertificateParams::new(vec!["fleet.example".into()]).unwrap();
            params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
            params.not_after = rcgen::date_time_ymd(to.0, to.1, to.2);
            let der = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec();
            let found = validity(&der).unwrap();
            let day = |at: OffsetDateTime| (at.year(), u8::from(at.month()), at.day());
            assert_eq!((day(found.from), day(found.to)), (from, to));
            for cut in 0..200 {
                assert_eq!(validity(&der[..cut]), None, "cut at {cut}");
            }
        }
        assert_eq!(validity(b"rubbish"), None);
    }
}
