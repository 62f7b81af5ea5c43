//! Results on their way to the host.

use super::buffer::Buffer;
use super::device::{Gpu, lock};
use crate::error::{Error, Result};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};

/// A point in the order of what was submitted; see [`Recorder::submitted`](super::Recorder::submitted).
#[derive(Debug, Clone)]
pub struct Submission(pub(super) Option<wgpu::SubmissionIndex>);

/// Host memory that a recorder copies results to ([`Recorder::read_back`](super::Recorder::read_back)), made once and reused.
///
/// Reading it waits for the submission that the copies were part of, and not, as [`Gpu::read`] does, for whatever was submitted
/// since: the device goes on with that while the host works on the results.
pub struct Readback {
    gpu: Gpu,
    raw: wgpu::Buffer,
    bytes: u64,
}

type Answer = Receiver<std::result::Result<(), wgpu::BufferAsyncError>>;

impl Readback {
    /// Room for `bytes` (rounded up to 8). It lies in the host's memory: the device's report counts that it was allocated, not its bytes.
    ///
    /// # Errors
    /// More than a buffer can hold, or out of memory.
    pub fn new(gpu: &Gpu, label: &str, bytes: u64) -> Result<Self> {
        let bytes = bytes.max(8).next_multiple_of(8);
        gpu.refuse(gpu.buffer_limits().holds(label, bytes))?;
        let scope = gpu.0.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let raw = host_buffer(gpu, label, if gpu.counts() { 8 } else { bytes });
        if pollster::block_on(scope.pop()).is_some() {
            return Err(Error::OutOfMemory(format!("{label} ({bytes} bytes on the host)")));
        }
        gpu.0.tracker.count();
        Ok(Self {
            gpu: gpu.clone(),
            raw,
            bytes,
        })
    }

    /// Bytes it holds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn raw(&self) -> &wgpu::Buffer {
        &self.raw
    }

    /// The first `count` values of `T`, once what was submitted up to `after` has run.
    ///
    /// # Errors
    /// A lost device, or an error that an earlier submission caused.
    pub fn read<T: bytemuck::Pod>(&self, after: &Submission, count: usize) -> Result<Vec<T>> {
        self.gpu.holds_values()?;
        self.gpu.take(&self.raw, after, count)
    }
}

fn host_buffer(gpu: &Gpu, label: &str, bytes: u64) -> wgpu::Buffer {
    gpu.0.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        size: bytes,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}

impl Gpu {
    /// Reads `count` values of `T` from byte `offset`, after everything submitted so far.
    ///
    /// # Errors
    /// A lost device, or an error that an earlier submission caused.
    pub fn read<T: bytemuck::Pod>(&self, buffer: &Buffer, offset: u64, count: usize) -> Result<Vec<T>> {
        self.holds_values()?;
        let bytes = (count * size_of::<T>()) as u64;
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let padded = bytes.next_multiple_of(4);
        let mut slot = lock(&self.0.staging);
        if slot.as_ref().is_none_or(|s| s.size() < padded) {
            let most = self.buffer_limits().buffer;
            let roomy = padded.next_power_of_two().max(4096);
            *slot = Some(host_buffer(self, "readback", roomy.min(most.max(padded))));
        }
        let Some(staging) = slot.as_ref() else {
            return Err(Error::internal("no staging buffer"));
        };
        let mut encoder = self.0.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer.raw(), offset, staging, 0, Some(padded));
        let copied = self.0.queue.submit([encoder.finish()]);
        self.take(staging, &Submission(Some(copied)), count)
    }

    /// Waits until everything submitted has run.
    ///
    /// # Errors
    /// A lost device, or an error that an earlier submission caused.
    pub fn wait(&self) -> Result<()> {
        self.wait_for(&Submission(None))
    }

    /// Waits until what was submitted up to `point` has run.
    ///
    /// # Errors
    /// As [`Gpu::wait`].
    pub fn wait_for(&self, point: &Submission) -> Result<()> {
        let wait = wgpu::PollType::Wait {
            submission_index: point.0.clone(),
            timeout: None,
        };
        self.0.waits.fetch_add(1, Ordering::Relaxed);
        if let Err(e) = self.0.device.poll(wait) {
            return Err(self
                .take_fault()
                .unwrap_or_else(|| Error::DeviceLost(e.to_string())));
        }
        self.check()
    }

    /// The first `count` values in a host buffer, once what was submitted up to `after` has run. The buffer is usable again
    /// afterwards, also where this fails.
    fn take<T: bytemuck::Pod>(
        &self,
        host: &wgpu::Buffer,
        after: &Submission,
        count: usize,
    ) -> Result<Vec<T>> {
        let bytes = count * size_of::<T>();
        let padded = (bytes as u64).next_multiple_of(4);
        if count == 0 {
            return Ok(Vec::new());
        }
        let (tx, answer) = channel();
        host.slice(..padded)
            .map_async(wgpu::MapMode::Read, move |r| drop(tx.send(r)));
        let out = self.mapped(after, &answer).and_then(|()| {
            let view = host
                .slice(..padded)
                .get_mapped_range()
                .map_err(|e| Error::Gpu(e.to_string()))?;
            let mut out = vec![T::zeroed(); count];
            bytemuck::cast_slice_mut::<T, u8>(&mut out).copy_from_slice(&view[..bytes]);
            Ok(out)
        });
        host.unmap();
        // The first error is the one to tell; what the unmapping of a buffer that never was mapped adds is taken off the record.
        let late = self.check();
        out.and_then(|values| late.map(|()| values))
    }

    /// Waits for a mapping.
    fn mapped(&self, after: &Submission, answer: &Answer) -> Result<()> {
        self.wait_for(after)?;
        let fault = |otherwise| self.take_fault().unwrap_or(otherwise);
        answer
            .recv()
            .map_err(|_| fault(Error::DeviceLost("no answer to a readback".into())))?
            .map_err(|e| fault(Error::Gpu(format!("mapping for readback: {e}"))))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::gpu::{GpuOptions, Recorder};

    #[test]
    fn what_is_read_back_is_what_was_there_when_it_was_submitted() {
        let gpu = Gpu::open(&GpuOptions {
            device: std::env::var("TEA_DEVICE").ok(),
            ..Default::default()
        })
        .unwrap();
        let before = gpu.memory();
        let host = Readback::new(&gpu, "test", 20).unwrap();
        assert_eq!(host.bytes(), 24);
        let after = gpu.memory();
        assert_eq!(
            (after.allocations, after.current),
            (before.allocations + 1, before.current)
        );
        let buffer = gpu.upload("test", &[1u32, 2, 3, 4]).unwrap();
        let mut rec = Recorder::new(&gpu);
        for round in 0..3u32 {
            rec.write(&buffer, 0, &[round, 2, 3, 4]).unwrap();
            rec.read_back(&buffer, 0, &host, 0, 8);
            rec.read_back(&buffer, 8, &host, 12, 8);
            let point = rec.submitted().unwrap();
            // Submitted later, and not waited for.
            rec.write(&buffer, 0, &[9u32; 4]).unwrap();
            rec.zero(&buffer);
            rec.submit().unwrap();
            let words: Vec<u32> = host.read(&point, 5).unwrap();
            assert_eq!(
                (words[..2].to_vec(), words[3..].to_vec()),
                (vec![round, 2], vec![3, 4])
            );
            assert_eq!(gpu.read::<u32>(&buffer, 0, 4).unwrap(), [0; 4]);
        }
        // Copies of several submissions, read together after the last; a recorder that submitted nothing waits for everything.
        for at in 0..3u64 {
            rec.write(&buffer, 0, &[at as u32 + 5]).unwrap();
            rec.read_back(&buffer, 0, &host, at * 4, 4);
        }
        rec.submit().unwrap();
        let point = Recorder::new(&gpu).submitted().unwrap();
        assert_eq!(host.read::<u32>(&point, 3).unwrap(), [5, 6, 7]);
        assert!(host.read::<u32>(&point, 0).unwrap().is_empty());
        gpu.wait_for(&point).unwrap();
    }
}
