//! Durations, sizes and processors as Compose writes them.
//!
//! Decides: what a text means; what cannot be kept exactly is none.

use bramble_contracts::quantity::{ByteSize, MilliCpus, Millis};

const NANOS: [(&str, u128); 8] = [
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
    ("w", 604_800_000_000_000),
];

/// Digits, and a point and more of them: the number times `unit`, rounded down, and whether nothing was lost by that.
fn scaled(number: &str, unit: u128) -> Option<(u128, bool)> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || whole.len() + part.len() == 0 || whole.len() > 15 || part.len() > 9 {
        return None;
    }
    let read = |t: &str| if t.is_empty() { Some(0) } else { t.parse::<u128>().ok() };
    let (above, below) = (read(whole)?.checked_mul(unit)?, read(part)?.checked_mul(unit)?);
    let by = 10u128.pow(u32::try_from(part.len()).ok()?);
    Some((above + below / by, below % by == 0))
}

/// `1m30s`, `500ms`, `1.5s`; `0` needs no unit. In whole milliseconds.
pub(super) fn duration(text: &str) -> Option<Millis> {
    if text == "0" {
        return Some(Millis(0));
    }
    let (mut rest, mut sum) = (text, 0u128);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let (_, nanos) = NANOS.iter().find(|(name, _)| *name == unit)?;
        sum = sum.checked_add(scaled(number, *nanos).filter(|(_, exact)| *exact)?.0)?;
        rest = tail;
    }
    let whole = sum.is_multiple_of(1_000_000) && !text.is_empty();
    u64::try_from(sum / 1_000_000).ok().filter(|_| whole).map(Millis)
}

/// `1073741824`, `512m`, `1.5g`: units are powers of 1024, in either case, with `b` or `ib` or without.
pub(super) fn bytes(text: &str) -> Option<ByteSize> {
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let unit = unit.trim_start();
    let letter = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit);
    if letter.is_empty() && unit == "ib" {
        return None;
    }
    let power = ["", "k", "m", "g", "t"].iter().position(|u| *u == letter)?;
    let (bytes, _) = scaled(number, 1 << (10 * power))?;
    u64::try_from(bytes).ok().map(ByteSize)
}

/// `0.5`, `.50`, `2`; zero, which is no limit, is `Some(None)`.
pub(super) fn cpus(text: &str) -> Option<Option<MilliCpus>> {
    let (thousandths, exact) = scaled(text, 1000)?;
    let thousandths = u32::try_from(thousandths).ok().filter(|_| exact)?;
    Some((thousandths > 0).then_some(MilliCpus(thousandths)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let good = [
            ("0", 0),
            ("0s", 0),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1.5s", 1500),
            ("1h5m3s", 3_903_000),
            ("1d", 86_400_000),
        ];
        for (text, ms) in good {
            assert_eq!(duration(text), Some(Millis(ms)), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1x", "1.5.5s", "10us", "1ns", "1 s", ".s", "99999999999999999s"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_and_processors() {
        let good =
            [("1024", 1024), ("50M", 50 << 20), ("512mb", 512 << 20), ("1.5g", 3 << 29), ("1 GiB", 1 << 30), ("2b", 2)];
        for (text, want) in good {
            assert_eq!(bytes(text), Some(ByteSize(want)), "{text}");
        }
        for text in ["", "m", "1x", "-1", "1ib", "1.m.", "99999999999999999"] {
            assert_eq!(bytes(text), None, "{text}");
        }
        assert_eq!((cpus("0.50"), cpus(".5")), (Some(Some(MilliCpus(500))), Some(Some(MilliCpus(500)))));
        assert_eq!((cpus("2"), cpus("0.0")), (Some(Some(MilliCpus(2000))), Some(None)));
        assert_eq!((cpus("0.0005"), cpus("half"), cpus("")), (None, None, None));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9.µsmhdkgb é-]{0,30}") {
            let _ = (duration(&text), bytes(&text), cpus(&text));
        }
    }
}
