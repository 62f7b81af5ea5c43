//! GPU buffers that count themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What is allocated, by label.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct MemoryReport {
    /// Bytes allocated now.
    pub current: u64,
    /// Most bytes that were allocated at once.
    pub peak: u64,
    /// Buffers allocated so far, freed ones and the host's readback areas too.
    pub allocations: u64,
    /// Bytes allocated now by each label (text before the first `/` of a buffer's label).
    pub by_owner: BTreeMap<String, u64>,
    /// The same when the peak was reached.
    pub by_owner_at_peak: BTreeMap<String, u64>,
}

#[derive(Default)]
pub(super) struct Tracker(Mutex<MemoryReport>);

impl Tracker {
    fn add(&self, owner: &str, bytes: u64) {
        let mut r = super::device::lock(&self.0);
        r.current += bytes;
        r.allocations += 1;
        *r.by_owner.entry(owner.to_string()).or_default() += bytes;
        if r.current > r.peak {
            r.peak = r.current;
            r.by_owner_at_peak = r.by_owner.clone();
        }
    }

    /// Counts an allocation that takes nothing of the device's memory.
    pub(super) fn count(&self) {
        super::device::lock(&self.0).allocations += 1;
    }

    fn remove(&self, owner: &str, bytes: u64) {
        let mut r = super::device::lock(&self.0);
        r.current = r.current.saturating_sub(bytes);
        if let Some(b) = r.by_owner.get_mut(owner) {
            *b = b.saturating_sub(bytes);
        }
    }

    pub(super) fn report(&self) -> MemoryReport {
        super::device::lock(&self.0).clone()
    }
}

struct Counted {
    raw: wgpu::Buffer,
    label: String,
    bytes: u64,
    tracker: Arc<Tracker>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.tracker.remove(owner(&self.label), self.bytes);
    }
}

fn owner(label: &str) -> &str {
    label.split('/').next().unwrap_or(label)
}

/// A storage buffer on the GPU. Cheap to clone; every clone is the same memory.
///
/// wgpu tracks whole buffers, and a read-write binding is exclusive within a dispatch: one buffer a tensor.
#[derive(Clone)]
pub struct Buffer(Arc<Counted>);

impl Buffer {
    pub(super) fn new(raw: wgpu::Buffer, label: &str, bytes: u64, tracker: &Arc<Tracker>) -> Self {
        tracker.add(owner(label), bytes);
        Self(Arc::new(Counted {
            raw,
            label: label.to_string(),
            bytes,
            tracker: tracker.clone(),
        }))
    }

    pub(super) fn raw(&self) -> &wgpu::Buffer {
        &self.0.raw
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// The label it was allocated with.
    pub fn label(&self) -> &str {
        &self.0.label
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({}, {} bytes)", self.0.label, self.0.bytes)
    }
}
