//! Telling an attempt that nobody wants its result any more.

use tokio::sync::watch;

/// The asking end. Dropping it asks for nothing.
#[derive(Debug)]
pub struct Canceller(watch::Sender<bool>);

/// The listening end.
#[derive(Clone, Debug)]
pub struct Cancel(watch::Receiver<bool>);

/// A connected pair.
pub fn pair() -> (Canceller, Cancel) {
    let (sender, receiver) = watch::channel(false);
    (Canceller(sender), Cancel(receiver))
}

impl Canceller {
    /// Asks for the end.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }
}

impl Cancel {
    /// Whether the end has been asked for.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when the end is asked for; never if nobody can ask any more.
    pub async fn requested(&mut self) {
        if self.0.wait_for(|requested| *requested).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
