//! Ctrl-C. Owns the one signal handler: during a reply it asks for the reply to end, elsewhere it
//! ends the program, unless a person is in a conversation. The line editor sees Ctrl-C at its prompt
//! itself.

use super::output::note;
use anyhow::{Context, Result};
use deltamem::session::Cancel;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// The turn that Ctrl-C ends, while there is one.
static RUNNING: Mutex<Option<Cancel>> = Mutex::new(None);
static IS_CONVERSATION: AtomicBool = AtomicBool::new(false);
static N_PRESSED: AtomicU32 = AtomicU32::new(0);

/// What shells report for a program that Ctrl-C ended.
const EXIT_CODE: i32 = 130;

/// Takes over Ctrl-C for the rest of the program.
pub fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(cancel) = running else {
            // Pressed just as the reply ended: meant for the reply.
            if IS_CONVERSATION.load(Ordering::SeqCst) {
                return;
            }
            std::process::exit(EXIT_CODE);
        };
        cancel.cancel();
        match N_PRESSED.fetch_add(1, Ordering::SeqCst) {
            0 => {}
            1 => note!("\nstopping with the next step; Ctrl-C again leaves at once"),
            _ => std::process::exit(EXIT_CODE),
        }
    })
    .context("Ctrl-C cannot be handled")
}

/// From here on Ctrl-C between replies does nothing.
pub fn begin_conversation() {
    IS_CONVERSATION.store(true, Ordering::SeqCst);
}

/// While this lives, Ctrl-C is about the reply.
pub struct Replying;

impl Replying {
    /// A turn begins that `cancel` ends.
    pub fn begin(cancel: Cancel) -> Replying {
        N_PRESSED.store(0, Ordering::SeqCst);
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = Some(cancel);
        Replying
    }
}

impl Drop for Replying {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
