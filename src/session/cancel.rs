//! Ending a call from outside: from a signal handler, another thread, another task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A handle to what a session runs; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends what runs soon: while text is read with [`crate::Error::Cancelled`], a reply as far as
    /// it came. No effect between calls.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    pub(super) fn reset(&self) {
        self.0.store(false, Ordering::SeqCst);
    }
}
