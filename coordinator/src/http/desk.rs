//! How many sessions there may be: at once, of one caller, and how soon one after the other.
//!
//! Decides: bounds. Deliberately does not: know what a session is. A device has its own bounds.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use bramble_contracts::problem::Code;

use super::error::ApiError;

/// At once, in all.
const ALL_MAX: usize = 128;
/// At once, of one caller.
const CALLER_MAX: usize = 16;
/// Begun within a minute, by one caller.
const RATE_MAX: usize = 60;
const MINUTE_MS: u64 = 60_000;

/// Who has how many.
#[derive(Debug, Default)]
pub(super) struct Desk(Mutex<BTreeMap<String, Uses>>);

#[derive(Debug, Default)]
struct Uses {
    open: usize,
    begun_ms: VecDeque<u64>,
}

/// One session's seat, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    desk: Arc<Desk>,
    who: String,
}

impl Desk {
    /// A seat, or why there is none. Nobody waits.
    pub(super) fn sit(self: &Arc<Self>, who: &str, now_ms: u64) -> Result<Seat, ApiError> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, uses| uses.is_of_use(now_ms));
        let open = all.values().map(|uses| uses.open).sum::<usize>();
        let busy = |detail: String| Err(ApiError::new(Code::Unavailable, detail));
        if open >= ALL_MAX {
            return busy(format!("{ALL_MAX} sessions are open, more than that is too many: try again later"));
        }
        let uses = all.entry(who.to_owned()).or_default();
        if uses.open >= CALLER_MAX {
            return busy(format!("{who} has {CALLER_MAX} sessions open: end one first"));
        }
        if uses.begun_ms.len() >= RATE_MAX {
            return busy(format!("{who} has begun {RATE_MAX} sessions within a minute: wait a moment"));
        }
        uses.open += 1;
        uses.begun_ms.push_back(now_ms);
        Ok(Seat { desk: Arc::clone(self), who: who.to_owned() })
    }
}

impl Uses {
    fn is_of_use(&mut self, now_ms: u64) -> bool {
        self.begun_ms.retain(|at| now_ms.saturating_sub(*at) < MINUTE_MS);
        self.open > 0 || !self.begun_ms.is_empty()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut all = self.desk.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(uses) = all.get_mut(&self.who) {
            uses.open = uses.open.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_cannot_take_every_seat_and_seats_are_given_back() {
        let desk = Arc::new(Desk::default());
        let seats: Vec<Seat> = (0..CALLER_MAX).map(|_| desk.sit("ann", 0).unwrap()).collect();
        assert!(desk.sit("ann", 0).unwrap_err().detail.contains("end one first"));
        let other = desk.sit("bob", 0).unwrap();
        drop(seats);
        drop(desk.sit("ann", 0).unwrap());
        drop(other);
        assert!(desk.sit("cy", MINUTE_MS).is_ok());
        assert_eq!(desk.0.lock().unwrap().len(), 1, "nobody who has gone is remembered");
    }

    #[test]
    fn sessions_have_a_rate() {
        let desk = Arc::new(Desk::default());
        for n in 0..RATE_MAX as u64 {
            drop(desk.sit("ann", n).unwrap());
        }
        assert!(desk.sit("ann", MINUTE_MS - 1).unwrap_err().detail.contains("wait a moment"));
        assert!(desk.sit("ann", MINUTE_MS).is_ok(), "the first is a minute ago");
    }

    #[test]
    fn all_callers_together_have_a_bound() {
        let desk = Arc::new(Desk::default());
        let seats: Vec<Seat> = (0..ALL_MAX).map(|n| desk.sit(&format!("c{}", n / CALLER_MAX), 0).unwrap()).collect();
        assert!(desk.sit("late", 0).is_err());
        assert_eq!(seats.len(), ALL_MAX);
    }
}
