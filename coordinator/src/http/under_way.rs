//! Mutations that are under way, also those whose client has gone: an end of the program waits for their outcome.
//!
//! Decides: nothing; it counts. Deliberately does not: bound them; the work of each has its own deadlines.

use std::sync::Arc;

use tokio::sync::watch;

/// How many are under way.
#[derive(Debug, Clone, Default)]
pub(super) struct UnderWay(Arc<watch::Sender<usize>>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<watch::Sender<usize>>);

impl UnderWay {
    /// One more.
    pub(super) fn enter(&self) -> Place {
        self.0.send_modify(|n| *n += 1);
        Place(Arc::clone(&self.0))
    }

    /// Resolves when there is none.
    pub(super) fn settled(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut count = self.0.subscribe();
        async move {
            // An end of the sender means that nobody can enter any more.
            let _ = count.wait_for(|n| *n == 0).await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn it_is_settled_when_the_last_has_left() {
        let all = UnderWay::default();
        let (one, two) = (all.enter(), all.enter());
        drop(one);
        assert_eq!(all.settled().now_or_never(), None);
        drop(two);
        all.settled().await;
    }
}
