//! Many cases on all processors. Decides when to stop: at the first that went wrong.

use std::sync::Mutex;

/// As many threads as there are cores take one after the other.
pub fn on_all_cores<T: Send>(work: Vec<T>, each: impl Fn(T) -> (u32, Option<String>) + Sync) -> u32 {
    let (work, done) = (Mutex::new(work), Mutex::new((0, None)));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(next) = { work.lock().unwrap().pop() } {
                    let (cases, wrong) = each(next);
                    let mut done = done.lock().unwrap();
                    done.0 += cases;
                    done.1 = done.1.take().or(wrong);
                    if done.1.is_some() {
                        return;
                    }
                }
            });
        }
    });
    let (cases, wrong) = done.into_inner().unwrap();
    assert!(wrong.is_none(), "{}", wrong.unwrap_or_default());
    cases
}
