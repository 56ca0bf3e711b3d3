//! What the device's wall clock is worth: judged by what others say the time is, never set. Pure.
//!
//! Decides the verdict, the floor below which no time is believed, and when to look again. Does not ask anybody, and
//! decides nothing about apps: they run under any clock. The clock itself is set by systemd-timesyncd or chrony.

use std::time::Duration;

use bramble_contracts::v2::{ClockReport, ClockVerdict};
use serde::{Deserialize, Serialize};

use super::backoff::Backoff;

/// A clock that is off by more than this is wrong; sources that differ by more contradict each other.
pub const SKEW_MAX_MS: i64 = 30_000;
/// Wall clock and uptime parted by more than this: somebody set the clock.
pub const JUMP_MS: i64 = 5_000;
/// An NTP answer that took longer says too little.
pub const NTP_ROUND_TRIP_MAX_MS: u64 = 2_000;
/// The same for the coordinator's signed time, which goes through the broker.
pub const SIGNED_ROUND_TRIP_MAX_MS: u64 = 10_000;
/// NTP servers this close to their median agree with it.
const AGREE_MS: i64 = 5_000;
/// After so long without anybody who tells the time nothing is known any more: a board's own oscillator, off by 50 in
/// a million, is 30 seconds off by then.
const HOLD: Duration = Duration::from_secs(7 * 86_400);
/// Between looks at a clock that is fit.
const PERIOD: Duration = Duration::from_secs(6 * 3600);
/// Between looks at one that is not, so that it is seen to recover. At first as quick as an NTP client that starts.
const AGAIN: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(600));
/// The floor on disk rises in steps of this: a flash card is not to wear out by it.
const FLOOR_STEP_MS: u64 = 3_600_000;

/// The device's two clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970, by the clock that is judged.
    pub wall_ms: u64,
    /// Milliseconds since boot, by the clock that nobody sets.
    pub up_ms: u64,
}

/// A time that somebody told, tied to the uptime at which it was so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// Uptime in the middle of question and answer.
    pub up_ms: u64,
    /// How long the question was under way: the time is certain to half of this.
    pub round_trip_ms: u64,
}

impl Sample {
    /// The time it is by this sample when the device is up for `up_ms`.
    fn at(&self, up_ms: u64) -> i64 {
        signed(self.unix_ms) + signed(up_ms) - signed(self.up_ms)
    }
}

/// What one look brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Answers of NTP servers; those that took too long are left out by [`judge`].
    pub ntp: Vec<Sample>,
    /// How many NTP servers were asked.
    pub asked: usize,
    /// The coordinator's signed time, verified.
    pub signed: Option<Sample>,
}

impl Told {
    /// Did nobody answer?
    pub fn is_empty(&self) -> bool {
        self.ntp.is_empty() && self.signed.is_none()
    }

    /// Was all of it told too long ago?
    fn is_stale(&self, up_ms: u64) -> bool {
        let newest = self.ntp.iter().chain(&self.signed).map(|sample| sample.up_ms).max();
        newest.is_none_or(|at| up_ms.saturating_sub(at) > u64::try_from(HOLD.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The time below which nothing is believed: it has been later already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Floor {
    /// When this program was built, in milliseconds since 1970.
    pub built_ms: u64,
    /// The latest time that was ever judged fit on this device; 0 before the first.
    pub trusted_ms: u64,
}

impl Floor {
    /// The higher of both.
    pub fn ms(self) -> u64 {
        self.built_ms.max(self.trusted_ms)
    }
}

/// The floor as it lies on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFloor {
    /// Milliseconds since 1970.
    pub trusted_ms: u64,
}

/// Proof that the clock was fit when it was asked for: what needs a right clock takes one of these. Tokens of third
/// parties, upgrades and the dates of certificates do; apps and the renewal of the mesh's own JWT never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockFit(());

/// It is not, and why, with what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct ClockUnfit {
    /// In words.
    pub detail: String,
}

/// May what needs a right clock be done?
pub fn require(report: &ClockReport) -> Result<ClockFit, ClockUnfit> {
    match report.verdict {
        ClockVerdict::Fit => Ok(ClockFit(())),
        ClockVerdict::Unknown | ClockVerdict::Skewed | ClockVerdict::Disputed => {
            let detail = if report.detail.is_empty() { untold() } else { report.detail.clone() };
            Err(ClockUnfit { detail })
        }
    }
}

/// What a clock was found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// For the report.
    pub report: ClockReport,
    /// What the floor is from here on.
    pub floor: Floor,
}

/// Judges a clock. Only a time judged fit moves the floor, and only a fresh signature that the device's own clock agrees
/// with moves it down: a floor that a clock once wrong has put into the future must not lock the device for ever.
pub fn judge(floor: Floor, told: &Told, now: Now) -> Judged {
    let unmoved = |report| Judged { report, floor };
    if told.is_stale(now.up_ms) {
        return unmoved(alone(floor, now));
    }
    let ntp = agreed(&told.ntp, now.up_ms);
    let sources = sources(told, &ntp);
    let (time, skew) = match (told.signed.map(|sample| sample.at(now.up_ms)), ntp) {
        (None, Ntp::Silent) => return unmoved(alone(floor, now)),
        (None, Ntp::Divided) => {
            return unmoved(disputed(None, sources, "the NTP servers contradict each other"));
        }
        (Some(by_signed), Ntp::Time(by_ntp, _)) if (by_signed - by_ntp).abs() > SKEW_MAX_MS => {
            let why = format!("the coordinator's time is {}s from what NTP says", secs(by_signed - by_ntp));
            return unmoved(disputed(None, sources, &why));
        }
        (Some(by_signed), Ntp::Time(by_ntp, _)) => {
            let skews = [skew(now, by_signed), skew(now, by_ntp)];
            // Both have to find it right.
            (by_signed, skews[usize::from(skews[1].abs() > skews[0].abs())])
        }
        (Some(time), Ntp::Silent | Ntp::Divided) | (None, Ntp::Time(time, _)) => (time, skew(now, time)),
    };
    let fit = skew.abs() <= SKEW_MAX_MS;
    let below = time < signed(floor.ms()) - SKEW_MAX_MS;
    if below && !(fit && told.signed.is_some()) {
        let why = format!("it is {} by them, and {} was trusted before", date(time), date_of(floor.ms()));
        return unmoved(disputed(Some(skew), sources, &why));
    }
    if !fit {
        return unmoved(skewed(skew, sources));
    }
    let report = ClockReport { verdict: ClockVerdict::Fit, skew_ms: Some(skew), sources, detail: String::new() };
    Judged { report, floor: if below { overruled(floor, time) } else { raised(floor, time) } }
}

fn raised(floor: Floor, time: i64) -> Floor {
    Floor { trusted_ms: floor.trusted_ms.max(u64::try_from(time).unwrap_or(0)), ..floor }
}

/// Even the program's own date was wrong, then.
fn overruled(floor: Floor, time: i64) -> Floor {
    let time = u64::try_from(time).unwrap_or(0);
    Floor { built_ms: floor.built_ms.min(time), trusted_ms: time }
}

/// A clock about which nobody says anything: it can be seen to be too early, and nothing else.
fn alone(floor: Floor, now: Now) -> ClockReport {
    let behind = skew(now, signed(floor.ms()));
    if behind < -SKEW_MAX_MS {
        let sources = format!("the floor {}", date_of(floor.ms()));
        return skewed(behind, sources);
    }
    ClockReport { verdict: ClockVerdict::Unknown, skew_ms: None, sources: String::new(), detail: untold() }
}

fn untold() -> String {
    format!("nobody has told this device the time yet; {WAITS}")
}

const WAITS: &str = "no token is asked for elsewhere and nothing is upgraded until then; apps run on";

fn skewed(skew_ms: i64, sources: String) -> ClockReport {
    let detail = format!(
        "clock skew {}s; JWT validation will fail, so no token is asked for elsewhere and nothing is upgraded until it \
         is right; apps run on; enable systemd-timesyncd or chrony",
        secs(skew_ms)
    );
    ClockReport { verdict: ClockVerdict::Skewed, skew_ms: Some(skew_ms), sources, detail }
}

fn disputed(skew_ms: Option<i64>, sources: String, why: &str) -> ClockReport {
    let detail = format!("clock disputed: {why}; {WAITS}; correct the coordinator's clock or the NTP servers");
    ClockReport { verdict: ClockVerdict::Disputed, skew_ms, sources, detail }
}

/// What NTP says as a whole.
enum Ntp {
    /// Nothing.
    Silent,
    /// No majority.
    Divided,
    /// This, in milliseconds since 1970, by so many servers.
    Time(i64, usize),
}

/// The median, by the servers near it, where those are most of all that answered in time.
fn agreed(samples: &[Sample], up_ms: u64) -> Ntp {
    let quick = samples.iter().filter(|sample| sample.round_trip_ms <= NTP_ROUND_TRIP_MAX_MS);
    let mut times: Vec<i64> = quick.map(|sample| sample.at(up_ms)).collect();
    times.sort_unstable();
    let answered = times.len();
    let Some(median) = middle(&times) else { return Ntp::Silent };
    times.retain(|time| (time - median).abs() <= AGREE_MS);
    match middle(&times) {
        Some(time) if times.len() * 2 > answered => Ntp::Time(time, times.len()),
        Some(_) | None => Ntp::Divided,
    }
}

/// The middle of sorted times; of an even number the mean of the two.
fn middle(times: &[i64]) -> Option<i64> {
    let (low, high) = (times.get(times.len().checked_sub(1)? / 2)?, times.get(times.len() / 2)?);
    Some(low + (high - low) / 2)
}

fn sources(told: &Told, ntp: &Ntp) -> String {
    let signed = told.signed.map(|_| "the coordinator".to_owned());
    let ntp = match ntp {
        Ntp::Silent => None,
        Ntp::Divided => Some(format!("no majority of {} NTP servers", told.ntp.len())),
        Ntp::Time(_, agree) => Some(format!("{agree} of {} NTP servers", told.asked.max(told.ntp.len()))),
    };
    signed.into_iter().chain(ntp).collect::<Vec<_>>().join(", ")
}

/// By how much the device's clock is ahead of `time`.
fn skew(now: Now, time: i64) -> i64 {
    signed(now.wall_ms) - time
}

/// A report for people on the device.
pub fn words(report: &ClockReport) -> String {
    let by = match report.skew_ms {
        Some(skew) if !report.sources.is_empty() => format!(", {:+.1}s by {}", tenths(skew), report.sources),
        Some(_) | None => String::new(),
    };
    format!("{}{by}", format!("{:?}", report.verdict).to_lowercase())
}

/// In seconds. (What is added makes nought of nought below nought.)
fn tenths(ms: i64) -> f64 {
    (ms as f64 / 100.0).round() / 10.0 + 0.0
}

/// How far wall clock and uptime have parted between two moments: by so much the clock was set ahead.
pub fn parted(before: Now, after: Now) -> i64 {
    (signed(after.wall_ms) - signed(before.wall_ms)) - (signed(after.up_ms) - signed(before.up_ms))
}

/// Was the clock set between two moments?
pub fn jumped(before: Now, after: Now) -> Option<i64> {
    let by = parted(before, after);
    (by.abs() > JUMP_MS).then_some(by)
}

/// How long until the next look, after so many looks in a row that did not find it fit. The edge adds jitter.
pub fn pause(verdict: ClockVerdict, unfit_looks: u32) -> Duration {
    match verdict {
        ClockVerdict::Fit => PERIOD,
        ClockVerdict::Unknown | ClockVerdict::Skewed | ClockVerdict::Disputed => AGAIN.delay(unfit_looks.max(1)),
    }
}

/// Is the floor to be written, given what lies on disk?
pub fn worth_storing(floor: Floor, stored: Option<StoredFloor>) -> bool {
    let stored = stored.map_or(0, |stored| stored.trusted_ms);
    floor.trusted_ms < stored || floor.trusted_ms >= stored.saturating_add(FLOOR_STEP_MS)
}

/// Milliseconds since 1970 as people read them.
fn date(unix_ms: i64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp(unix_ms.div_euclid(1000)).ok();
    let text = at.and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok());
    text.unwrap_or_else(|| format!("{unix_ms} ms after 1970"))
}

/// The same, of a time that cannot be before 1970.
pub fn date_of(unix_ms: u64) -> String {
    date(signed(unix_ms))
}

/// Whole seconds; what is beyond the bound is never shown as within it.
fn secs(ms: i64) -> i64 {
    let nearest = (ms.abs() + 500) / 1000;
    let beyond = if ms.abs() > SKEW_MAX_MS { SKEW_MAX_MS / 1000 + 1 } else { 0 };
    ms.signum() * nearest.max(beyond)
}

/// Bounded, so that whatever anybody says can be added and compared.
fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX).min(1 << 60)
}

#[cfg(test)]
mod tests;
