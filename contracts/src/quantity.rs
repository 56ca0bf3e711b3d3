//! Durations, sizes and shares: `30s`, `128Mi`, `0.5`, `10%` where people write, whole numbers on the wire.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A quantity that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {want}")]
pub struct BadQuantity {
    /// What is wanted, with an example.
    pub want: &'static str,
    /// What was there, shortened.
    pub text: String,
}

fn bad(want: &'static str, text: &str) -> BadQuantity {
    BadQuantity { want, text: text.chars().take(80).collect() }
}

/// Reads a text or a number, whichever the file has, and hands its text to `FromStr`.
struct TextOrNumber<T>(&'static str, std::marker::PhantomData<T>);

impl<T: FromStr<Err = BadQuantity>> de::Visitor<'_> for TextOrNumber<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
    fn visit_u64<E: de::Error>(self, n: u64) -> Result<T, E> {
        n.to_string().parse().map_err(E::custom)
    }
    fn visit_i64<E: de::Error>(self, n: i64) -> Result<T, E> {
        n.to_string().parse().map_err(E::custom)
    }
    fn visit_f64<E: de::Error>(self, n: f64) -> Result<T, E> {
        n.to_string().parse().map_err(E::custom)
    }
}

fn read<'de, T, D>(d: D, want: &'static str) -> Result<T, D::Error>
where
    T: FromStr<Err = BadQuantity>,
    D: Deserializer<'de>,
{
    d.deserialize_any(TextOrNumber(want, std::marker::PhantomData))
}

const DURATION: &str = "a duration such as 500ms, 30s, 5m, 2h or 7d";
const SIZE: &str = "a size in bytes such as 1048576, 512Ki, 128Mi or 1Gi";
const CPUS: &str = "a number of processors such as 0.5 or 2";
const AMOUNT: &str = "a number of devices such as 1, or a share such as 10%";

/// A length of time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct Millis(pub u64);

impl Millis {
    /// `n` seconds.
    pub const fn secs(n: u64) -> Self {
        Self(n * 1000)
    }
    /// As the standard library's type.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl FromStr for Millis {
    type Err = BadQuantity;
    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let (mut rest, mut sum) = (text, 0u64);
        if rest.is_empty() {
            return Err(bad(DURATION, text));
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (number, tail) = rest.split_at(digits);
            let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            let number: u64 = number.parse().map_err(|_| bad(DURATION, text))?;
            let (_, ms) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| bad(DURATION, text))?;
            let part = number.checked_mul(*ms).ok_or_else(|| bad(DURATION, text))?;
            sum = sum.checked_add(part).ok_or_else(|| bad(DURATION, text))?;
            rest = tail;
        }
        Ok(Self(sum))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, ms) =
            UNITS.iter().rev().find(|(_, ms)| self.0 >= *ms && self.0.is_multiple_of(*ms)).unwrap_or(&("s", 1000));
        write!(f, "{}{unit}", self.0 / ms)
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { s.serialize_u64(self.0) }
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() { read(d, DURATION) } else { u64::deserialize(d).map(Self) }
    }
}

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct ByteSize(pub u64);

const SIZES: [(&str, u64); 8] = [
    ("", 1),
    ("k", 1000),
    ("Ki", 1 << 10),
    ("M", 1_000_000),
    ("Mi", 1 << 20),
    ("G", 1_000_000_000),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
];

impl FromStr for ByteSize {
    type Err = BadQuantity;
    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad(SIZE, text))?;
        let (_, factor) = SIZES.iter().find(|(name, _)| *name == unit).ok_or_else(|| bad(SIZE, text))?;
        number.checked_mul(*factor).map(Self).ok_or_else(|| bad(SIZE, text))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = [("Ti", 1u64 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
        let (unit, size) = binary.iter().find(|(_, n)| self.0 >= *n && self.0.is_multiple_of(*n)).unwrap_or(&("", 1));
        write!(f, "{}{unit}", self.0 / size)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { s.serialize_u64(self.0) }
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() { read(d, SIZE) } else { u64::deserialize(d).map(Self) }
    }
}

/// Processors, in thousandths: `0.5` is 500.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct MilliCpus(pub u32);

impl FromStr for MilliCpus {
    type Err = BadQuantity;
    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(part) || part.len() > 3 {
            return Err(bad(CPUS, text));
        }
        let whole: u32 = whole.parse().map_err(|_| bad(CPUS, text))?;
        let thousandths: u32 = format!("{part:0<3}").parse().map_err(|_| bad(CPUS, text))?;
        let sum = whole.checked_mul(1000).and_then(|n| n.checked_add(thousandths));
        sum.filter(|n| *n > 0).map(Self).ok_or_else(|| bad(CPUS, text))
    }
}

impl fmt::Display for MilliCpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:03}", self.0 / 1000, self.0 % 1000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl Serialize for MilliCpus {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { s.serialize_u32(self.0) }
    }
}

impl<'de> Deserialize<'de> for MilliCpus {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() { read(d, CPUS) } else { u32::deserialize(d).map(Self) }
    }
}

/// So many devices, or such a share of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// A number of devices.
    Count(u32),
    /// A share in percent, 0 to 100.
    Percent(u8),
}

impl FromStr for Amount {
    type Err = BadQuantity;
    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let wrong = |_| bad(AMOUNT, text);
        match text.strip_suffix('%') {
            Some(share) => match share.parse::<u8>().map_err(wrong)? {
                share @ 0..=100 => Ok(Self::Percent(share)),
                101.. => Err(bad(AMOUNT, text)),
            },
            None => text.parse().map(Self::Count).map_err(wrong),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(n) => write!(f, "{n}"),
            Self::Percent(n) => write!(f, "{n}%"),
        }
    }
}

/// On the wire: a count as it is, a share as `2^32 + percent`.
impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            return s.collect_str(self);
        }
        s.serialize_u64(match self {
            Self::Count(n) => u64::from(*n),
            Self::Percent(n) => (1 << 32) + u64::from(*n),
        })
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            return read(d, AMOUNT);
        }
        let n = u64::deserialize(d)?;
        if let Ok(count) = u32::try_from(n) {
            return Ok(Self::Count(count));
        }
        match u8::try_from(n - (1 << 32)) {
            Ok(share @ 0..=100) => Ok(Self::Percent(share)),
            Ok(101..) | Err(_) => Err(de::Error::custom("a share above 100 %")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [("0s", 0), ("500ms", 500), ("30s", 30_000), ("1m30s", 90_000), ("7d", 604_800_000)] {
            assert_eq!(text.parse(), Ok(Millis(ms)), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1.5s", "1y", "99999999999999999999s", "9999999999999999d"] {
            assert!(text.parse::<Millis>().is_err(), "{text}");
        }
        assert_eq!((Millis(90_000).to_string(), Millis(0).to_string()), ("90s".into(), "0s".into()));
    }

    #[test]
    fn sizes_cpus_amounts() {
        assert_eq!("128Mi".parse(), Ok(ByteSize(128 << 20)));
        assert!("128MB".parse::<ByteSize>().is_err() && "99999999Ti".parse::<ByteSize>().is_err());
        assert_eq!(ByteSize(3 << 29).to_string(), "1536Mi");
        assert_eq!(("0.5".parse(), "2".parse()), (Ok(MilliCpus(500)), Ok(MilliCpus(2000))));
        assert!("0".parse::<MilliCpus>().is_err() && "0.0001".parse::<MilliCpus>().is_err());
        assert_eq!((MilliCpus(500).to_string(), MilliCpus(10_000).to_string()), ("0.5".into(), "10".into()));
        assert_eq!(("10%".parse(), "3".parse()), (Ok(Amount::Percent(10)), Ok(Amount::Count(3))));
        assert!("101%".parse::<Amount>().is_err());
    }
}
