//! An open device: its queue, what it can do, and the errors it reports out of turn.

use super::adapters::{self, AdapterReport, BufferLimits, DeviceKind, Found};
use super::buffer::{Buffer, MemoryReport, Tracker};
use super::counting::Counting;
use super::features;
use super::kernel::Kernel;
use super::pipeline::Pipeline;
use super::profile::Profile;
use crate::config::MatmulPrecision;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// How to open a device.
#[derive(Debug, Clone, Default)]
pub struct GpuOptions {
    /// Adapter index or part of its name; `None` picks the best.
    pub device: Option<String>,
    /// Time every dispatch with GPU timestamps (slower; for `--profile` and `bench`).
    pub profile: bool,
    /// Whether shaders run with wgpu's checks of bounds, divisors and loops; `None` has them in debug builds and not in
    /// releases. Tests ask for what ships.
    pub shader_checks: Option<bool>,
    /// Threads in a kernel's workgroup, a power of two from 8 to 256, in place of those by the kind of adapter; `None` takes
    /// the environment's `TEA_LANES`. It lets a CPU adapter run the workgroups that a GPU gets.
    pub lanes: Option<u32>,
    /// Whether the best kernel variants are looked up or measured.
    pub tune: Tune,
}

/// Where choices among kernel variants of equal bits come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tune {
    /// From the table of defaults, by the kind of adapter.
    #[default]
    Off,
    /// From what was measured on this adapter earlier, where there is such.
    Stored,
    /// As `Stored`; what is missing is measured when a model is loaded.
    Measure,
}

/// What kernels may ask of the adapter when they choose a variant.
#[derive(Debug, Clone)]
pub struct Caps {
    /// What the adapter is.
    pub kind: DeviceKind,
    /// 16-bit floats in shaders.
    pub f16: bool,
    /// Subgroup operations in shaders.
    pub subgroups: bool,
    /// Largest single binding in bytes (clamped to 2³¹ − 4: larger ones compute wrongly on some back ends).
    pub max_binding: u64,
    /// Threads in a workgroup.
    pub max_invocations: u32,
    /// Workgroups in one dimension.
    pub max_workgroups: u32,
    /// Workgroup memory in bytes.
    pub max_workgroup_bytes: u32,
    /// Threads in a workgroup where [`GpuOptions::lanes`] or `TEA_LANES` fixes them.
    pub forced_lanes: Option<usize>,
}

impl Caps {
    /// Threads in a workgroup of a kernel that takes `gpu` of them (a power of two up to 256) on a GPU: what is forced, or a
    /// SIMD register's on a CPU adapter. The order of a reduction over the lanes depends on it; never on the batch.
    pub fn lanes(&self, gpu: usize) -> usize {
        self.forced_lanes.unwrap_or(self.kind.lanes(gpu))
    }
}

/// The workgroup size that was asked for, by option or else by the text of `TEA_LANES`.
fn forced_lanes(option: Option<u32>, variable: Option<&str>, max_invocations: u32) -> Result<Option<usize>> {
    let asked = match (option, variable.map(str::trim).filter(|t| !t.is_empty())) {
        (Some(lanes), _) => lanes.to_string(),
        (None, Some(text)) => text.to_string(),
        (None, None) => return Ok(None),
    };
    let most = max_invocations.min(256);
    let fits = |lanes: &u32| lanes.is_power_of_two() && (8..=most).contains(lanes);
    match asked.parse().ok().filter(fits) {
        Some(lanes) => Ok(Some(lanes as usize)),
        None => Err(Error::user(format!(
            "TEA_LANES is {asked}; it must be a power of two from 8 to {most} on this adapter"
        ))),
    }
}

/// A kernel's address and its override constants, by their bits.
pub(super) type PipelineKey = (usize, Vec<(&'static str, u64)>);

pub(super) struct Inner {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) caps: Caps,
    pub(super) report: AdapterReport,
    pub(super) tracker: Arc<Tracker>,
    pub(super) pipelines: Mutex<HashMap<PipelineKey, Arc<Pipeline>>>,
    pub(super) cache: Option<wgpu::PipelineCache>,
    pub(super) cache_file: Option<std::path::PathBuf>,
    pub(super) trusted: bool,
    pub(super) fault: Arc<Mutex<Option<Error>>>,
    pub(super) staging: Mutex<Option<wgpu::Buffer>>,
    pub(super) profile: Option<Mutex<Profile>>,
    /// Stand for unused bindings: one that is read, one that may be written.
    pub(super) dummies: [wgpu::Buffer; 2],
    /// Dispatches, copies and clears recorded.
    commands: AtomicU64,
    /// Times that the host waited for the device.
    pub(super) waits: AtomicU64,
    pub(super) variant: Option<String>,
    pub(super) choices: RwLock<HashMap<u64, &'static str>>,
    pub(super) tune: Tune,
    pub(super) matmul_precision: AtomicU8,
    /// Where it only counts.
    pub(super) counting: Option<Counting>,
}

/// An open device. Cheap to clone; every clone is the same device.
#[derive(Clone)]
pub struct Gpu(pub(super) Arc<Inner>);

pub(super) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// Opens the adapter that `options` name, with every limit and useful feature it has. Without a name, an adapter that
    /// cannot be opened makes room for the next.
    ///
    /// # Errors
    /// No adapter, none that matches, one too small, or none that can be opened (user errors that say what to do).
    pub fn open(options: &GpuOptions) -> Result<Self> {
        let mut candidates = adapters::choose(options.device.as_deref())?
            .into_iter()
            .peekable();
        while let Some(Found { adapter, mut report }) = candidates.next() {
            match features::open(&adapter, &report) {
                Ok(opened) => {
                    report.leave_out(opened.refused);
                    log::info!(
                        "device {}: {} ({}, {})",
                        report.index,
                        report.name,
                        report.backend,
                        report.driver_info
                    );
                    let cache = super::pipeline::open_cache(&opened.device, &adapter.get_info());
                    return Self::new(options, report, (opened.device, opened.queue), cache);
                }
                Err(why) => {
                    let failed = format!("adapter {}: the driver failed to open it: {why}", report.name);
                    let Some(next) = candidates.peek() else {
                        return Err(Error::user(format!(
                            "{failed}. Update its driver, or choose another adapter with --device (`tea-wgpu devices` \
                             lists them)"
                        )));
                    };
                    log::warn!("{failed}; {} is used in its place", next.report.name);
                }
            }
        }
        Err(Error::internal("no adapter to open"))
    }

    /// A device of these parts.
    pub(super) fn new(
        options: &GpuOptions,
        report: AdapterReport,
        (device, queue): (wgpu::Device, wgpu::Queue),
        (cache, cache_file): (Option<wgpu::PipelineCache>, Option<std::path::PathBuf>),
    ) -> Result<Self> {
        let limits = device.limits();
        let fault = Arc::new(Mutex::new(None));
        watch(&device, &fault);
        let caps = Caps {
            kind: report.kind,
            f16: report.f16,
            subgroups: report.subgroups,
            max_binding: limits
                .max_storage_buffer_binding_size
                .min(limits.max_buffer_size)
                .min((1 << 31) - 4),
            max_invocations: limits.max_compute_invocations_per_workgroup,
            max_workgroups: limits.max_compute_workgroups_per_dimension,
            max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
            forced_lanes: forced_lanes(
                options.lanes,
                crate::config::variable("TEA_LANES").as_deref(),
                limits.max_compute_invocations_per_workgroup,
            )?,
        };
        let profile = (options.profile && report.timestamps)
            .then(|| Mutex::new(Profile::new(&device, queue.get_timestamp_period())));
        let dummies = [(), ()].map(|()| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("unused binding"),
                size: 256,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            })
        });
        let gpu = Self(Arc::new(Inner {
            device,
            queue,
            caps,
            report,
            tracker: Arc::default(),
            pipelines: Mutex::default(),
            cache,
            cache_file,
            trusted: !options.shader_checks.unwrap_or(cfg!(debug_assertions)),
            fault,
            staging: Mutex::default(),
            profile,
            dummies,
            commands: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            variant: crate::config::variable("TEA_VARIANT"),
            choices: RwLock::default(),
            tune: options.tune,
            matmul_precision: AtomicU8::new(MatmulPrecision::Highest as u8),
            counting: None,
        }));
        // What the driver reported while it made the buffers above and the cache.
        gpu.check()?;
        Ok(gpu)
    }

    /// Whether both are the same open device.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What the adapter can do.
    pub fn caps(&self) -> &Caps {
        &self.0.caps
    }

    /// Whether kernels are timed by the GPU ([`GpuOptions::profile`], where the adapter has timestamps).
    pub fn profiles(&self) -> bool {
        self.0.profile.is_some()
    }

    /// The adapter's full report.
    pub fn report(&self) -> &AdapterReport {
        &self.0.report
    }

    /// What it holds in one buffer.
    pub fn buffer_limits(&self) -> BufferLimits {
        self.counted_limits().cloned().unwrap_or_else(|| BufferLimits {
            adapter: self.0.report.name.clone(),
            binding: self.0.caps.max_binding,
            buffer: self.0.device.limits().max_buffer_size,
        })
    }

    /// Bytes allocated now and at the peak, by label.
    pub fn memory(&self) -> MemoryReport {
        self.0.tracker.report()
    }

    /// Refuses a buffer of `bytes` that the adapter cannot bind.
    ///
    /// # Errors
    /// It cannot; `what` is in the message.
    pub fn must_bind(&self, what: &str, bytes: u64) -> Result<()> {
        self.refuse(self.buffer_limits().binds(what, bytes))
    }

    /// Allocates a zeroed buffer of `bytes` (rounded up to 4).
    ///
    /// # Errors
    /// More than one binding can hold (the caller splits or the user lowers a setting), or out of memory.
    pub fn alloc(&self, label: &str, bytes: u64) -> Result<Buffer> {
        let bytes = bytes.max(4).next_multiple_of(4);
        self.must_bind(label, bytes)?;
        if self.counts() {
            let raw = self.0.dummies[1].clone();
            return Ok(Buffer::new(raw, label, bytes, &self.0.tracker));
        }
        let scope = self.0.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let raw = self.0.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        if pollster::block_on(scope.pop()).is_some() {
            return Err(Error::OutOfMemory(format!(
                "{label} ({bytes} bytes; {} in use)",
                self.memory().current
            )));
        }
        Ok(Buffer::new(raw, label, bytes, &self.0.tracker))
    }

    /// Allocates a buffer that holds `data`.
    ///
    /// # Errors
    /// As [`Gpu::alloc`].
    pub fn upload<T: bytemuck::Pod>(&self, label: &str, data: &[T]) -> Result<Buffer> {
        let buffer = self.alloc(label, size_of_val(data) as u64)?;
        self.write(&buffer, 0, data);
        Ok(buffer)
    }

    /// Writes `data` at byte `offset`, before anything submitted later.
    ///
    /// A [`Recorder`](super::Recorder) with unsubmitted work must be submitted first; its own
    /// [`write`](super::Recorder::write) does that.
    pub fn write<T: bytemuck::Pod>(&self, buffer: &Buffer, offset: u64, data: &[T]) {
        if self.counts() {
            return;
        }
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let whole = bytes.len() / 4 * 4;
        if whole > 0 {
            self.0.queue.write_buffer(buffer.raw(), offset, &bytes[..whole]);
        }
        if whole < bytes.len() {
            let mut last = [0u8; 4];
            last[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
            self.0
                .queue
                .write_buffer(buffer.raw(), offset + whole as u64, &last);
        }
    }

    /// The error that wgpu reported out of turn, if any.
    pub(super) fn check(&self) -> Result<()> {
        self.take_fault().map_or(Ok(()), Err)
    }

    pub(super) fn take_fault(&self) -> Option<Error> {
        lock(&self.0.fault).take()
    }

    /// The pipeline of `kernel` with these override constants, built on first use.
    pub(super) fn pipeline(
        &self,
        kernel: &'static Kernel,
        constants: &[(&'static str, f64)],
    ) -> Result<Arc<Pipeline>> {
        let key = (
            std::ptr::from_ref(kernel) as usize,
            constants
                .iter()
                .map(|(n, v)| (*n, v.to_bits()))
                .collect::<Vec<_>>(),
        );
        if let Some(p) = lock(&self.0.pipelines).get(&key) {
            return Ok(p.clone());
        }
        let made = Arc::new(Pipeline::new(self, kernel, constants)?);
        lock(&self.0.pipelines).insert(key, made.clone());
        Ok(made)
    }

    pub(super) fn count_command(&self) {
        self.0.commands.fetch_add(1, Ordering::Relaxed);
    }

    /// How many dispatches, copies and clears were recorded since the device was opened.
    pub fn commands_recorded(&self) -> u64 {
        self.0.commands.load(Ordering::Relaxed)
    }

    /// How many times the host has waited for the device, since it was opened.
    pub fn host_waits(&self) -> u64 {
        self.0.waits.load(Ordering::Relaxed)
    }

    /// How many pipelines were built since the device was opened.
    pub fn pipelines_made(&self) -> usize {
        lock(&self.0.pipelines).len()
    }

    /// The pipelines built since the device was opened: kernels and the values of their override constants.
    pub fn pipelines(&self) -> Vec<(&'static Kernel, Vec<(&'static str, f64)>)> {
        let made = lock(&self.0.pipelines);
        let one = |((_, constants), pipeline): (&PipelineKey, &Arc<Pipeline>)| {
            let values = constants
                .iter()
                .map(|(name, bits)| (*name, f64::from_bits(*bits)));
            (pipeline.kernel, values.collect())
        };
        made.iter().map(one).collect()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        super::pipeline::save_cache(self.cache.as_ref(), self.cache_file.as_deref());
    }
}

/// Keeps what the driver reports out of turn; the first fault wins, since later ones follow from it.
fn watch(device: &wgpu::Device, fault: &Arc<Mutex<Option<Error>>>) {
    let keep = fault.clone();
    device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
        let e = match e {
            wgpu::Error::OutOfMemory { source } => Error::OutOfMemory(source.to_string()),
            wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
                Error::Gpu(description)
            }
        };
        log::error!("{e}");
        lock(&keep).get_or_insert(e);
    }));
    let keep = fault.clone();
    device.set_device_lost_callback(move |reason, message| {
        if reason != wgpu::DeviceLostReason::Destroyed {
            log::error!("device lost: {message}");
            lock(&keep).get_or_insert(Error::DeviceLost(message));
        }
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn lanes_are_a_power_of_two_that_the_adapter_takes() {
        assert_eq!(forced_lanes(None, None, 256).unwrap(), None);
        assert_eq!(forced_lanes(None, Some(" "), 256).unwrap(), None);
        assert_eq!(forced_lanes(None, Some("64"), 256).unwrap(), Some(64));
        assert_eq!(forced_lanes(Some(8), Some("64"), 256).unwrap(), Some(8));
        for (text, max) in [
            ("4", 256),
            ("48", 256),
            ("256", 128),
            ("512", 1024),
            ("many", 256),
        ] {
            let e = forced_lanes(None, Some(text), max).unwrap_err();
            let most = max.min(256);
            assert_eq!(e.exit_code(), 2);
            assert!(
                e.to_string().contains(&format!(
                    "TEA_LANES is {text}; it must be a power of two from 8 to {most}"
                )),
                "{e}"
            );
        }
    }
}
