//! The line in front of the model. Owns how many requests may wait, and that one whose client went
//! away leaves the line or is ended; what a request asks for is not its business.

use deltamem::session::Cancel;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Requests in the order in which they came.
pub struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    /// Most that wait; one more may be running.
    capacity: usize,
    /// Ends what runs.
    cancel: Cancel,
}

struct State<T> {
    waiting: VecDeque<(Gone, T)>,
    running: Option<Gone>,
    is_closed: bool,
}

/// True as soon as nobody waits for a request's answer any more.
#[derive(Debug, Clone, Default)]
pub struct Gone(Arc<AtomicBool>);

impl Gone {
    pub fn is_gone(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn is(&self, other: &Gone) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Why a request is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Full,
    Closed,
}

impl<T> Queue<T> {
    pub fn new(capacity: usize, cancel: Cancel) -> Arc<Queue<T>> {
        let state = State { waiting: VecDeque::new(), running: None, is_closed: false };
        Arc::new(Queue { state: Mutex::new(state), changed: Condvar::new(), capacity, cancel })
    }

    /// Takes a request. Dropping the ticket gives it up.
    pub fn push(self: &Arc<Self>, request: T) -> Result<Ticket<T>, Refused> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(Refused::Closed);
        }
        // what nothing runs before does not wait
        let n_ahead = state.waiting.len() + usize::from(state.running.is_some());
        if n_ahead > self.capacity {
            return Err(Refused::Full);
        }
        let gone = Gone::default();
        state.waiting.push_back((gone.clone(), request));
        self.changed.notify_one();
        Ok(Ticket { queue: self.clone(), gone })
    }

    /// Waits for the next request, which is running from then on until the next call; `None` when
    /// the line is closed.
    pub fn next(&self) -> Option<(Gone, T)> {
        let mut state = self.lock();
        state.running = None;
        loop {
            if state.is_closed {
                return None;
            }
            if let Some((gone, request)) = state.waiting.pop_front() {
                state.running = Some(gone.clone());
                return Some((gone, request));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How many requests wait; the one that is running does not.
    pub fn n_waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Lets nothing in any more and drops what waits; what runs goes on.
    pub fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        drop(waiting);
        self.changed.notify_all();
    }

    /// Ends what runs, as if its client had gone away.
    pub fn cancel_running(&self) {
        if let Some(running) = &self.lock().running {
            running.0.store(true, Ordering::SeqCst);
            self.cancel.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the line; dropped, the request is given up wherever it is.
pub struct Ticket<T> {
    queue: Arc<Queue<T>>,
    gone: Gone,
}

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        self.gone.0.store(true, Ordering::SeqCst);
        let mut state = self.queue.lock();
        if state.running.as_ref().is_some_and(|running| running.is(&self.gone)) {
            self.queue.cancel.cancel();
        }
        state.waiting.retain(|(gone, _)| !gone.is(&self.gone));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_in_order_and_no_more_than_there_is_room_for() {
        let queue = Queue::new(1, Cancel::default());
        let first = queue.push(1).unwrap();
        let second = queue.push(2).unwrap();
        assert_eq!((queue.push(3).err(), queue.n_waiting()), (Some(Refused::Full), 2));
        assert_eq!(queue.next().map(|(_, n)| n), Some(1));
        assert_eq!(queue.n_waiting(), 1);
        assert_eq!(queue.push(3).err(), Some(Refused::Full));
        // whoever gives up makes room
        drop(second);
        let third = queue.push(3).unwrap();
        let (gone, n) = queue.next().unwrap();
        assert_eq!((n, gone.is_gone()), (3, false));
        drop(first);
        assert!(!gone.is_gone());
        drop(third);
        assert!(gone.is_gone());
    }

    #[test]
    fn a_closed_line_lets_nobody_in_and_nobody_wait() {
        let queue = Queue::new(4, Cancel::default());
        let ticket = queue.push(1).unwrap();
        let (gone, _) = queue.next().unwrap();
        let _waiting = queue.push(2).unwrap();
        queue.close();
        assert!(!gone.is_gone());
        queue.cancel_running();
        assert!(gone.is_gone());
        assert_eq!(queue.push(3).err(), Some(Refused::Closed));
        assert_eq!(queue.next().map(|(_, n)| n), None);
        drop(ticket);
    }
}
