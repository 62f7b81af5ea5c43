//! Batches dispatches into submissions.

use super::buffer::Buffer;
use super::device::{Gpu, lock};
use super::kernel::Kernel;
use super::layout::{Member, Params};
use super::pipeline::Binding;
use super::profile::{CAPACITY, ProfileRow};
use super::readback::{Readback, Submission};
use crate::error::{Error, Result};

/// Dispatches in one submission: enough to hide the cost of a submission, few enough that no driver's
/// watchdog takes the queue for hung.
const DISPATCHES_PER_SUBMIT: usize = 256;

/// Records dispatches and copies in order, and submits them.
///
/// Work runs in the order it was recorded; wgpu puts the barriers. Nothing runs before [`submit`](Self::submit)
/// (called for you every 256 dispatches and before a [`write`](Self::write)).
pub struct Recorder {
    gpu: Gpu,
    encoder: Option<wgpu::CommandEncoder>,
    pass: Option<wgpu::ComputePass<'static>>,
    dispatches: usize,
    variant: Option<&'static str>,
    sums_split: bool,
    last: Option<wgpu::SubmissionIndex>,
}

impl Recorder {
    /// An empty recorder.
    pub fn new(gpu: &Gpu) -> Self {
        Self {
            gpu: gpu.clone(),
            encoder: None,
            pass: None,
            dispatches: 0,
            variant: None,
            sums_split: false,
            last: None,
        }
    }

    /// The device it records for.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Has the ops recorded from here on take the kernel variant of this name where they have it; `None` lets each choose.
    pub fn force_variant(&mut self, name: Option<&'static str>) {
        self.variant = name;
    }

    /// The variant that [`force_variant`](Self::force_variant) or the environment's `TEA_VARIANT` asks for.
    pub fn forced_variant(&self) -> Option<&str> {
        self.variant.or(self.gpu.forced_variant())
    }

    /// Whether matrix products recorded from here on may add their sums in another order where the precision `high` is set: a
    /// decode step's. Off at first.
    pub fn let_sums_split(&mut self, on: bool) {
        self.sums_split = on;
    }

    /// What [`let_sums_split`](Self::let_sums_split) set.
    pub fn sums_may_split(&self) -> bool {
        self.sums_split
    }

    fn encoder(&mut self) -> &mut wgpu::CommandEncoder {
        self.pass = None;
        self.encoder
            .get_or_insert_with(|| self.gpu.0.device.create_command_encoder(&Default::default()))
    }

    /// Records one dispatch of `groups` workgroups.
    ///
    /// `params` becomes the shader's `var<immediate>` (the same members, checked); `bindings` follow the shader's
    /// binding numbers. A dispatch with a zero in `groups` is dropped.
    ///
    /// # Errors
    /// The shader does not compile, or the arguments do not fit it (bugs), or an earlier submission failed.
    pub fn dispatch<P: Params>(
        &mut self,
        kernel: &'static Kernel,
        constants: &[(&'static str, f64)],
        params: &P,
        bindings: &[Binding<'_>],
        groups: [u32; 3],
    ) -> Result<()> {
        if groups.contains(&0) || self.gpu.counts() {
            return Ok(());
        }
        let pipeline = self.gpu.pipeline(kernel, constants)?;
        let params = bytemuck::bytes_of(params);
        if bindings.len() != pipeline.bindings.len() || params.len() != pipeline.immediate_bytes as usize {
            return Err(Error::internal(format!(
                "kernel {}: {} bindings and {} bytes of parameters given, the shader has {} and {}",
                kernel.name,
                bindings.len(),
                params.len(),
                pipeline.bindings.len(),
                pipeline.immediate_bytes
            )));
        }
        if pipeline.members != P::MEMBERS {
            return Err(Error::internal(format!(
                "kernel {}: its parameters are {}, the shader has {}",
                kernel.name,
                listed(P::MEMBERS),
                listed(&pipeline.members)
            )));
        }
        if groups.iter().any(|g| *g > self.gpu.0.caps.max_workgroups) {
            return Err(Error::internal(format!(
                "kernel {}: {groups:?} workgroups; fold the indices",
                kernel.name
            )));
        }
        let entries: Vec<_> = (0u32..)
            .zip(bindings.iter().zip(&pipeline.bindings))
            .map(|(binding, (b, writes))| wgpu::BindGroupEntry {
                binding,
                resource: match b {
                    Binding::Buffer(b) => b.raw().as_entire_binding(),
                    // What a shader may write is bound to nothing else.
                    Binding::Unused => self.gpu.0.dummies[usize::from(*writes)].as_entire_binding(),
                },
            })
            .collect();
        let group = self.gpu.0.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(kernel.name),
            layout: &pipeline.layout,
            entries: &entries,
        });
        self.begin_pass(kernel.name);
        let Some(pass) = self.pass.as_mut() else {
            return Err(Error::internal("no compute pass"));
        };
        pass.set_pipeline(&pipeline.raw);
        pass.set_bind_group(0, &group, &[]);
        if !params.is_empty() {
            pass.set_immediates(0, params);
        }
        pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
        self.gpu.count_command();
        self.dispatches += 1;
        if self.dispatches >= DISPATCHES_PER_SUBMIT {
            self.submit()?;
        }
        Ok(())
    }

    /// Opens a compute pass if none is open; with profiling, one pass a dispatch between two timestamps.
    fn begin_pass(&mut self, name: &'static str) {
        let gpu = self.gpu.clone();
        let Some(profile) = &gpu.0.profile else {
            if self.pass.is_none() {
                let pass = self
                    .encoder()
                    .begin_compute_pass(&Default::default())
                    .forget_lifetime();
                self.pass = Some(pass);
            }
            return;
        };
        let mut profile = lock(profile);
        let at = profile.names.len() as u32 * 2;
        debug_assert!(at < CAPACITY * 2);
        profile.names.push(name);
        let writes = wgpu::ComputePassTimestampWrites {
            query_set: &profile.queries,
            beginning_of_pass_write_index: Some(at),
            end_of_pass_write_index: Some(at + 1),
        };
        let descriptor = wgpu::ComputePassDescriptor {
            label: Some(name),
            timestamp_writes: Some(writes),
        };
        let pass = self.encoder().begin_compute_pass(&descriptor).forget_lifetime();
        self.pass = Some(pass);
    }

    /// Copies `bytes` from `source` at `from` to `target` at `to` (byte offsets, multiples of 4).
    pub fn copy(&mut self, source: &Buffer, from: u64, target: &Buffer, to: u64, bytes: u64) {
        if bytes > 0 && !self.gpu.counts() {
            self.gpu.count_command();
            self.encoder()
                .copy_buffer_to_buffer(source.raw(), from, target.raw(), to, Some(bytes));
        }
    }

    /// Copies `bytes` from `source` at `from` to the host's `target` at `to` (byte offsets, multiples of 4), where
    /// [`Readback::read`] finds them.
    pub fn read_back(&mut self, source: &Buffer, from: u64, target: &Readback, to: u64, bytes: u64) {
        if bytes > 0 && !self.gpu.counts() {
            self.gpu.count_command();
            self.encoder()
                .copy_buffer_to_buffer(source.raw(), from, target.raw(), to, Some(bytes));
        }
    }

    /// Sets a whole buffer to zero.
    pub fn zero(&mut self, buffer: &Buffer) {
        if !self.gpu.counts() {
            self.gpu.count_command();
            self.encoder().clear_buffer(buffer.raw(), 0, None);
        }
    }

    /// Submits what is recorded, then writes `data` at byte `offset` of `buffer`.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn write<T: bytemuck::Pod>(&mut self, buffer: &Buffer, offset: u64, data: &[T]) -> Result<()> {
        self.submit()?;
        self.gpu.write(buffer, offset, data);
        Ok(())
    }

    /// Submits what is recorded; the point that the device has to reach until all that this recorder submitted has run.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn submitted(&mut self) -> Result<Submission> {
        self.submit()?;
        Ok(Submission(self.last.clone()))
    }

    /// Submits what is recorded.
    ///
    /// # Errors
    /// An error the driver reported since the last call: device lost, out of memory, validation.
    pub fn submit(&mut self) -> Result<()> {
        self.pass = None;
        self.dispatches = 0;
        let Some(mut encoder) = self.encoder.take() else {
            return self.gpu.check();
        };
        let gpu = self.gpu.clone();
        let Some(profile) = &gpu.0.profile else {
            self.last = Some(gpu.0.queue.submit([encoder.finish()]));
            // Frees what finished submissions held; does not wait.
            drop(gpu.0.device.poll(wgpu::PollType::Poll));
            return gpu.check();
        };
        let mut profile = lock(profile);
        let count = profile.names.len() as u32 * 2;
        if count > 0 {
            encoder.resolve_query_set(&profile.queries, 0..count, &profile.resolve, 0);
            encoder.copy_buffer_to_buffer(&profile.resolve, 0, &profile.host, 0, Some(u64::from(count) * 8));
        }
        self.last = Some(gpu.0.queue.submit([encoder.finish()]));
        if count > 0 {
            let slice = profile.host.slice(..u64::from(count) * 8);
            slice.map_async(wgpu::MapMode::Read, |_| {});
            gpu.wait()?;
            let ticks: Vec<u64> = {
                let view = slice.get_mapped_range().map_err(|e| Error::Gpu(e.to_string()))?;
                bytemuck::pod_collect_to_vec(&view[..])
            };
            profile.host.unmap();
            profile.add(&ticks);
        }
        gpu.check()
    }
}

fn listed(members: &[Member]) -> String {
    let all: Vec<String> = members.iter().map(Member::to_string).collect();
    format!("({})", all.join(", "))
}

impl Gpu {
    /// Time per kernel since the device was opened or [`clear_profile`](Self::clear_profile); empty without profiling.
    pub fn profile(&self) -> Vec<ProfileRow> {
        self.0
            .profile
            .as_ref()
            .map(|p| lock(p).rows())
            .unwrap_or_default()
    }

    /// Forgets the times so far.
    pub fn clear_profile(&self) {
        if let Some(p) = &self.0.profile {
            lock(p).clear();
        }
    }
}
