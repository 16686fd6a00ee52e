//! A few things at a time, each on a thread of its own.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Does `work` on every item, at most `at_once` at a time; results in the order of the items.
pub fn map<'t, T: Sync, R: Send>(items: &'t [T], at_once: usize, work: impl Fn(&'t T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once.max(1).min(items.len()))
            .map(|_| {
                scope.spawn(|| {
                    let mut done = Vec::new();
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(item) = items.get(index) else { return done };
                        done.push((index, work(item)));
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// [`map`] for work that can fail: after a failure nothing new is begun.
pub fn try_map<'t, T: Sync, R: Send, E: Send>(
    items: &'t [T],
    at_once: usize,
    work: impl Fn(&'t T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let failed = AtomicBool::new(false);
    let results = map(items, at_once, |item| {
        if failed.load(Ordering::Relaxed) {
            return None;
        }
        let result = work(item);
        failed.fetch_or(result.is_err(), Ordering::Relaxed);
        Some(result)
    });
    // What was left out comes with a failure, before or after it.
    results.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order_and_few_run_at_once() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let items: Vec<usize> = (0..50).collect();
        let doubled = map(&items, 3, |item| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::yield_now();
            now.fetch_sub(1, Ordering::SeqCst);
            item * 2
        });
        assert_eq!(doubled, items.iter().map(|item| item * 2).collect::<Vec<_>>());
        assert!(most.into_inner() <= 3);
        assert!(map(&[] as &[u8], 4, |_| ()).is_empty());
    }

    #[test]
    fn nothing_is_begun_after_a_failure() {
        let begun = AtomicUsize::new(0);
        let items: Vec<usize> = (0..100).collect();
        let result = try_map(&items, 1, |item| {
            begun.fetch_add(1, Ordering::SeqCst);
            if *item == 3 { Err("three") } else { Ok(*item) }
        });
        assert_eq!((result, begun.into_inner()), (Err("three"), 4));
        assert_eq!(try_map(&items, 4, |item| Ok::<_, ()>(*item)).as_ref(), Ok(&items));
    }
}
