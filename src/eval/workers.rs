//! Work on many cases, shared out among threads that each have a model. Owns that results come in the
//! order of the cases, whoever did them when.

use crate::error::{Error, Result};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What work on the case with this index failed with.
#[derive(Debug)]
pub struct Failure {
    pub index: usize,
    pub error: Error,
}

/// Does `work(worker, index)` for each index of `order`, in this order as workers become free; calls
/// `done(index)` after each. The results are those of the indices 0, 1, 2, …
///
/// With several workers each computes on one thread; a single one has all cores.
///
/// # Errors
/// The failure with the least index among those that happened before everybody had stopped.
///
/// # Panics
/// If `order` is no permutation of 0, 1, 2, …
pub fn share_out<W: Send, T: Send>(
    workers: &mut [W],
    order: &[usize],
    work: impl Fn(&mut W, usize) -> Result<T> + Sync,
    done: impl Fn(usize) + Sync,
) -> Result<Vec<T>, Failure> {
    let next = AtomicUsize::new(0);
    let has_failed = AtomicBool::new(false);
    let results = Mutex::new(Vec::from_iter(order.iter().map(|_| None)));
    let run = |worker: &mut W| {
        while !has_failed.load(Ordering::Relaxed) {
            let Some(&index) = order.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let result = work(worker, index);
            has_failed.fetch_or(result.is_err(), Ordering::Relaxed);
            results.lock().unwrap_or_else(|e| e.into_inner())[index] = Some(result);
            done(index);
        }
    };
    match workers {
        [worker] => run(worker),
        workers => std::thread::scope(|scope| {
            for worker in workers {
                scope.spawn(|| match one_thread() {
                    Ok(pool) => pool.install(|| run(worker)),
                    Err(_) => run(worker),
                });
            }
        }),
    }
    let results = results.into_inner().unwrap_or_else(|e| e.into_inner());
    let mut all = Vec::with_capacity(results.len());
    for (index, result) in results.into_iter().enumerate() {
        match result {
            Some(Ok(result)) => all.push(result),
            Some(Err(error)) => return Err(Failure { index, error }),
            // a later one failed
            None => {}
        }
    }
    assert_eq!(all.len(), order.len(), "every case has a result");
    Ok(all)
}

/// Threads that share out the rows of a matrix would only be in each other's way here.
fn one_thread() -> Result<rayon::ThreadPool, rayon::ThreadPoolBuildError> {
    rayon::ThreadPoolBuilder::new().num_threads(1).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_cases() {
        for n_workers in [1, 3] {
            let mut workers = vec![0usize; n_workers];
            let n_done = AtomicUsize::new(0);
            let order: Vec<usize> = (0..20).rev().collect();
            let work = |worker: &mut usize, index: usize| {
                *worker += 1;
                Ok(index * index)
            };
            let done = |_| {
                n_done.fetch_add(1, Ordering::Relaxed);
            };
            let results = share_out(&mut workers, &order, work, done).unwrap();
            assert_eq!(results, Vec::from_iter((0..20).map(|index| index * index)));
            assert_eq!(workers.iter().sum::<usize>(), 20);
            assert_eq!(n_done.into_inner(), 20);
        }
    }

    #[test]
    fn a_failure_ends_the_work_and_says_where() {
        for n_workers in [1, 3] {
            let n_begun = AtomicUsize::new(0);
            let work = |_: &mut (), index: usize| {
                n_begun.fetch_add(1, Ordering::Relaxed);
                match index {
                    4 => Err(Error::Cancelled),
                    index => Ok(index),
                }
            };
            let order: Vec<usize> = (0..1000).collect();
            let result = share_out(&mut vec![(); n_workers], &order, work, |_| {});
            let failure = result.unwrap_err();
            assert_eq!((failure.index, failure.error.code()), (4, "cancelled"));
            assert!((5..1000).contains(&n_begun.into_inner()));
        }
    }

    #[test]
    fn nothing_to_do_is_done() {
        let results = share_out(&mut [(), ()], &[], |(), index| Ok(index), |_| {}).unwrap();
        assert!(results.is_empty());
    }
}
