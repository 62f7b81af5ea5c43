//! Devices that only count: a buffer made on one takes no memory, and what is recorded for it is dropped.
//!
//! A constructor that runs on one says what it takes of a real device, to the byte. The memory plan is such a dry run.

use super::adapters::{BufferLimits, DeviceKind};
use super::device::{Gpu, GpuOptions, lock};
use super::imagined::Imagined;
use crate::error::{Error, Result};
use std::sync::{Arc, Mutex};

/// What a device that counts stands for.
pub(super) struct Counting {
    limits: BufferLimits,
    /// What is wrong with the first buffer that its adapter cannot hold.
    wrong: Mutex<Option<String>>,
}

impl Gpu {
    /// A device that counts what is allocated on it, as [`Gpu::memory`] tells. Its adapter has these limits. What would not
    /// fit there is counted too, and remembered ([`Gpu::unbound`]).
    ///
    /// # Errors
    /// wgpu cannot make a device without a driver.
    pub fn counting(limits: &BufferLimits) -> Result<Self> {
        let adapter = Imagined {
            kind: DeviceKind::Other,
            f16: false,
            subgroup_size: None,
            coop: None,
        };
        let mut gpu = Self::imagine(adapter, &GpuOptions::default())?;
        let inner = Arc::get_mut(&mut gpu.0).ok_or_else(|| Error::internal("a new device is shared"))?;
        inner.caps.max_binding = limits.binding;
        inner.counting = Some(Counting {
            limits: limits.clone(),
            wrong: Mutex::default(),
        });
        Ok(gpu)
    }

    /// Whether this device only counts. What would be written to it need not be read or computed, and nothing can be read
    /// from it.
    pub fn counts(&self) -> bool {
        self.0.counting.is_some()
    }

    /// The limits of the adapter that a device that counts stands for.
    pub(super) fn counted_limits(&self) -> Option<&BufferLimits> {
        self.0.counting.as_ref().map(|c| &c.limits)
    }

    /// What is wrong with the first buffer that the adapter of a device that counts cannot hold.
    pub fn unbound(&self) -> Option<String> {
        self.0.counting.as_ref().and_then(|c| lock(&c.wrong).clone())
    }

    /// Refuses a buffer with which something is wrong. A device that counts remembers the first such.
    pub(super) fn refuse(&self, wrong: Option<String>) -> Result<()> {
        match (wrong, &self.0.counting) {
            (None, _) => Ok(()),
            (Some(wrong), None) => Err(Error::OutOfMemory(wrong)),
            (Some(wrong), Some(counting)) => {
                lock(&counting.wrong).get_or_insert(wrong);
                Ok(())
            }
        }
    }

    /// Refuses to read from a device that counts.
    pub(super) fn holds_values(&self) -> Result<()> {
        match self.counts() {
            true => Err(Error::internal("a device that only counts holds no values")),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::gpu::{Readback, Recorder};

    #[test]
    fn what_is_allocated_is_counted_and_takes_nothing() {
        let limits = BufferLimits {
            adapter: "test".into(),
            binding: 1 << 40,
            buffer: 1 << 41,
        };
        let gpu = Gpu::counting(&limits).unwrap();
        assert!(gpu.counts());
        assert_eq!((gpu.buffer_limits(), gpu.caps().max_binding), (limits, 1 << 40));
        let large = gpu.alloc("weights/large", (1 << 40) - 4).unwrap();
        let small = gpu.upload("kv cache", &[1u8, 2, 3]).unwrap();
        let host = Readback::new(&gpu, "results", 1 << 41).unwrap();
        assert_eq!(
            (large.bytes(), small.bytes(), host.bytes()),
            ((1 << 40) - 4, 4, 1 << 41)
        );
        let memory = gpu.memory();
        assert_eq!((memory.current, memory.allocations), (1 << 40, 3));
        assert_eq!(memory.by_owner["weights"], (1 << 40) - 4);
        assert_eq!(gpu.unbound(), None);
        // What is recorded is dropped, and there is nothing to read.
        let mut rec = Recorder::new(&gpu);
        rec.copy(&large, 1 << 30, &small, 0, 4);
        rec.zero(&small);
        rec.write(&large, 1 << 39, &[1u32]).unwrap();
        rec.read_back(&large, 0, &host, 0, 8);
        let point = rec.submitted().unwrap();
        assert_eq!(gpu.commands_recorded(), 0);
        assert!(host.read::<u32>(&point, 1).is_err() && gpu.read::<u32>(&small, 0, 1).is_err());
        drop(large);
        assert_eq!((gpu.memory().current, gpu.memory().peak), (4, 1 << 40));
    }

    #[test]
    fn the_first_buffer_that_is_too_large_is_remembered() {
        let gpu = Gpu::counting(&BufferLimits::least()).unwrap();
        let least = BufferLimits::least();
        assert!(gpu.alloc("fits", least.binding).is_ok());
        assert_eq!(gpu.unbound(), None);
        for label in ["first", "second"] {
            assert_eq!(
                gpu.alloc(label, least.binding + 4).unwrap().bytes(),
                least.binding + 4
            );
        }
        assert!(Readback::new(&gpu, "third", least.buffer + 8).is_ok());
        assert_eq!(gpu.unbound(), least.binds("first", least.binding + 4));
    }
}
