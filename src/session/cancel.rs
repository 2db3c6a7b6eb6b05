//! Ending a turn from outside: from a signal handler, another thread, another task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A handle to a session's running turn; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends the running turn soon: while the prompt is read with [`crate::Error::Cancelled`], later
    /// with the reply as far as it came. No effect between turns.
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
