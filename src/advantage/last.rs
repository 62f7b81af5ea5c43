//! What a thread computed last.

use std::cell::Cell;

/// The last result of a costly function: thousands of groups in a row share their settings.
pub(super) struct Last<K, V>(Cell<Option<(K, V)>>);

impl<K: Copy + PartialEq, V: Copy> Last<K, V> {
    /// Nothing computed yet; for a `thread_local`.
    pub(super) const fn new() -> Self {
        Self(Cell::new(None))
    }

    /// The value of `key`: the last one if it was for this key, or what `compute` gives.
    pub(super) fn get(&self, key: K, compute: impl FnOnce() -> V) -> V {
        if let Some((known, value)) = self.0.get()
            && known == key
        {
            return value;
        }
        let value = compute();
        self.0.set(Some((key, value)));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_key_is_computed_anew() {
        let last = Last::new();
        let mut calls = 0;
        for (key, value) in [(1, 10), (1, 10), (2, 20), (1, 10)] {
            let got = last.get(key, || {
                calls += 1;
                key * 10
            });
            assert_eq!(got, value);
        }
        assert_eq!(calls, 3);
    }
}
