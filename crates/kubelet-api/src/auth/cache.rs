//! A bounded cache whose entries expire, with one load at a time per key.

use std::future::Future;
use std::hash::Hash;
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::Instant;

/// Values with a deadline each. When full, the ones used least are dropped.
pub(super) struct TtlCache<K, V> {
    entries: Cache<K, (Instant, V)>,
}

// === impl TtlCache ===

impl<K: Clone + Eq + Hash, V: Clone> TtlCache<K, V> {
    pub(super) fn new(entries: usize) -> Self {
        Self {
            entries: Cache::new(entries),
        }
    }

    /// The value of `key`, or what `load` yields with its lifetime. Concurrent callers of one key share a load.
    /// Errors are not kept.
    pub(super) async fn get_or_load<E>(
        &self,
        key: &K,
        load: impl Future<Output = Result<(V, Duration), E>>,
    ) -> Result<V, E> {
        let now = Instant::now();
        self.entries.remove_if(key, |(deadline, _)| *deadline <= now);
        let loaded = self.entries.get_or_insert_async(key, async {
            let (value, life) = load.await?;
            Ok((Instant::now() + life, value))
        });
        loaded.await.map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    const LIFE: Duration = Duration::from_secs(30);

    async fn value(value: u32, life: Duration) -> Result<(u32, Duration), Infallible> {
        Ok((value, life))
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_is_loaded_again_only_after_its_life() {
        let cache = TtlCache::new(8);
        assert_eq!(cache.get_or_load(&"k", value(1, LIFE)).await, Ok(1));
        tokio::time::advance(LIFE - Duration::from_millis(1)).await;
        assert_eq!(cache.get_or_load(&"k", value(2, LIFE)).await, Ok(1));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(cache.get_or_load(&"k", value(3, LIFE)).await, Ok(3));
    }

    #[tokio::test]
    async fn an_error_is_not_kept() {
        let cache = TtlCache::new(8);
        assert_eq!(cache.get_or_load(&"k", async { Err("down") }).await, Err("down"));
        assert_eq!(
            cache.get_or_load(&"k", async { Ok::<_, &str>((1, LIFE)) }).await,
            Ok(1)
        );
    }

    #[tokio::test]
    async fn the_number_of_entries_is_bounded() {
        let cache = TtlCache::new(16);
        for key in 0..1000_u32 {
            cache.get_or_load(&key, value(key, LIFE)).await.unwrap();
        }
        assert!(cache.entries.len() <= 16, "{}", cache.entries.len());
    }
}
