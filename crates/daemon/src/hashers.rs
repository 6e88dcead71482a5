//! The threads that verify passwords: few, and always the same.
//!
//! A hash takes a processor for tens of milliseconds and 19 MiB of memory. The allocator keeps what a thread has given back
//! for that thread, so on threads that come and go each of many would end up holding such a piece for good: a few
//! hundred logins were a few hundred megabytes. Here it is one piece for each of these threads.

use std::sync::{Arc, Mutex, PoisonError, mpsc};

use tokio::sync::oneshot;

/// Passwords verified at a time.
const THREADS: usize = 2;

type Work = Box<dyn FnOnce() + Send>;

/// The threads; they end when this is dropped and all work is done.
pub struct Hashers(mpsc::Sender<Work>);

impl Hashers {
    /// Starts them.
    pub fn start() -> Self {
        let (sender, receiver) = mpsc::channel::<Work>();
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..THREADS {
            let receiver = Arc::clone(&receiver);
            let next = move || receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let work = move || {
                while let Ok(work) = next() {
                    // A panic has been printed, and whoever waits for the result hears that there is none.
                    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                }
            };
            if let Err(error) = std::thread::Builder::new().name(format!("hasher-{number}")).spawn(work) {
                tracing::error!(%error, "a thread that verifies passwords could not be started");
            }
        }
        Self(sender)
    }

    /// Has one of them do something, after what was asked of them before.
    ///
    /// # Errors
    /// When it panics, or there is no thread.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
        let (done, result) = oneshot::channel();
        // Who has gone away, or was sent away, needs no result; and what waits would grow without end if it were looked for.
        let work = Box::new(move || {
            if !done.is_closed() {
                drop(done.send(work()))
            }
        });
        let lost = |_| "the password could not be verified".to_owned();
        self.0.send(work).map_err(|_| ()).map_err(lost)?;
        result.await.map_err(|_| ()).map_err(lost)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[tokio::test]
    async fn work_is_done_by_few_threads_and_a_panic_is_an_error() {
        let hashers = Hashers::start();
        let mut threads = HashSet::new();
        for number in 0..20 {
            let done = hashers.run(move || if number % 5 == 4 { panic!("meant") } else { std::thread::current().id() });
            match done.await {
                Ok(thread) => drop(threads.insert(thread)),
                Err(_) => assert_eq!(number % 5, 4),
            }
        }
        assert!(threads.len() <= THREADS);
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_any_more_is_not_done() {
        use std::sync::Barrier;
        use std::sync::atomic::{AtomicBool, Ordering};

        let hashers = Hashers::start();
        let done = Arc::new(AtomicBool::new(false));
        // All threads are at work, then asked once more by somebody who goes away, and then all at work again.
        let barriers = [(); 2].map(|()| Arc::new(Barrier::new(THREADS + 1)));
        let at_work = |barrier: &Arc<Barrier>| {
            let barrier = Arc::clone(barrier);
            hashers.run(move || barrier.wait())
        };
        let first = tokio::join!(begun(at_work(&barriers[0])), begun(at_work(&barriers[0])));
        let mark = Arc::clone(&done);
        drop(begun(hashers.run(move || mark.store(true, Ordering::Relaxed))).await);
        let second = tokio::join!(begun(at_work(&barriers[1])), begun(at_work(&barriers[1])));
        for barrier in &barriers {
            barrier.wait();
        }
        assert!(!done.load(Ordering::Relaxed));
        drop((first, second));
    }

    /// Something that has been asked for and is not waited for.
    async fn begun<F: Future>(asked: F) -> std::pin::Pin<Box<F>> {
        let mut asked = Box::pin(asked);
        tokio::select! {
            biased;
            _ = &mut asked => panic!("nothing is done so fast"),
            () = std::future::ready(()) => asked,
        }
    }
}
