//! Ctrl-C. Owns the one signal handler: during a reply it asks for the reply to end, elsewhere it
//! ends the program, unless a person is in a conversation. The line editor sees Ctrl-C at its prompt
//! itself.

use super::output::note;
use anyhow::{Context, Result};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

static IS_REPLYING: AtomicBool = AtomicBool::new(false);
static IS_CONVERSATION: AtomicBool = AtomicBool::new(false);
static N_PRESSED: AtomicU32 = AtomicU32::new(0);

/// What shells report for a program that Ctrl-C ended.
const EXIT_CODE: i32 = 130;

/// Takes over Ctrl-C for the rest of the program.
pub fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        if !IS_REPLYING.load(Ordering::SeqCst) {
            // Pressed just as the reply ended: meant for the reply.
            if IS_CONVERSATION.load(Ordering::SeqCst) {
                return;
            }
            std::process::exit(EXIT_CODE);
        }
        match N_PRESSED.fetch_add(1, Ordering::SeqCst) {
            0 => {}
            // A long prompt is read in one piece; only leaving can cut that short.
            1 => note!("\nstopping with the next token; Ctrl-C again leaves at once"),
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
    /// A reply begins.
    pub fn begin() -> Replying {
        N_PRESSED.store(0, Ordering::SeqCst);
        IS_REPLYING.store(true, Ordering::SeqCst);
        Replying
    }

    /// True once Ctrl-C was pressed during this reply.
    pub fn is_interrupted(&self) -> bool {
        N_PRESSED.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Replying {
    fn drop(&mut self) {
        IS_REPLYING.store(false, Ordering::SeqCst);
    }
}
