//! Work on several processors.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Does `work` for every item, on so many threads of which this is one; each takes the next item when it is done with
/// one. The results are in the order of the items.
pub(crate) fn map<T: Sync, R: Send>(items: &[T], threads: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if threads < 2 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let take = || {
        let index = next.fetch_add(1, Ordering::Relaxed);
        Some((index, work(items.get(index)?)))
    };
    let take_all = || std::iter::from_fn(take).collect::<Vec<(usize, R)>>();
    let mut done = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(take_all)).collect();
        let mut done = take_all();
        for other in others {
            done.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Barrier;
    use std::thread::ThreadId;

    use super::*;

    #[test]
    fn results_are_in_order_however_many_threads_there_are() {
        let items: Vec<usize> = (0..1000).collect();
        let doubled: Vec<usize> = items.iter().map(|item| 2 * item).collect();
        for threads in [0, 1, 2, 7] {
            assert_eq!(
                map(&items, threads, |item| 2 * item),
                doubled,
                "{threads} threads"
            );
        }
        assert!(map(&[], 2, |item: &u8| *item).is_empty());
    }

    #[test]
    fn threads_work_at_the_same_time() {
        // Nobody gets past it alone.
        let meet = Barrier::new(3);
        let who = map(&[1, 2, 3], 3, |_| {
            meet.wait();
            thread::current().id()
        });
        assert_eq!(who.into_iter().collect::<HashSet<ThreadId>>().len(), 3);
    }
}
