//! Finding an adapter: what the machine has, and which one a user means.

use super::kernel::{Coop, Kernel};
use crate::error::{Error, Result};
use crate::file::guard::guarded;
use crate::words::piece;
use serde::Serialize;

/// What kind of processor an adapter is; the order is the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// A graphics card with its own memory.
    Discrete,
    /// A GPU that shares the processor's memory.
    Integrated,
    /// A GPU handed through by a hypervisor.
    Virtual,
    /// A software driver on the processor.
    Cpu,
    /// The driver does not say.
    Other,
}

impl DeviceKind {
    /// Threads in a workgroup of a kernel that takes `gpu` of them on a GPU: a SIMD register's on a CPU adapter.
    pub fn lanes(self, gpu: usize) -> usize {
        if self == Self::Cpu { 8 } else { gpu }
    }
}

/// One row of the driver's cooperative-matrix table: `C (m×n) += A (m×k) · B (k×n)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CoopShape {
    /// Rows of A and C.
    pub m: u32,
    /// Columns of B and C.
    pub n: u32,
    /// Columns of A, rows of B.
    pub k: u32,
    /// Element type of A and B.
    pub ab: String,
    /// Element type of C.
    pub c: String,
}

impl CoopShape {
    /// Whether this is the shape a kernel asks for.
    pub fn is(&self, wanted: &Coop) -> bool {
        (self.m, self.n, self.k) == (wanted.m, wanted.n, wanted.k)
            && self.ab == wanted.ab
            && self.c == wanted.c
    }
}

/// A feature that the driver lists and this program does without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// The feature's name.
    pub feature: &'static str,
    /// Why it is not used.
    pub why: String,
}

impl std::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.feature, self.why)
    }
}

/// What an adapter reports, as `tea-wgpu devices` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct AdapterReport {
    /// Position in the list; `--device` takes it.
    pub index: usize,
    /// The driver's name for the adapter.
    pub name: String,
    /// Vulkan, Metal, Dx12 or Gl.
    pub backend: String,
    /// Discrete, integrated, virtual, cpu.
    pub kind: DeviceKind,
    /// Driver name.
    pub driver: String,
    /// Driver version text.
    pub driver_info: String,
    /// Largest single binding, bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer, bytes.
    pub max_buffer_bytes: u64,
    /// Storage buffers one shader stage may bind.
    pub max_storage_buffers: u32,
    /// Threads in a workgroup.
    pub max_invocations: u32,
    /// Workgroup memory, bytes.
    pub max_workgroup_bytes: u32,
    /// Bytes of immediate data a dispatch may carry.
    pub max_immediate_bytes: u32,
    /// Workgroups in one dimension of a dispatch.
    pub max_workgroups: u32,
    /// 16-bit floats in shaders.
    pub f16: bool,
    /// Subgroup operations in shaders.
    pub subgroups: bool,
    /// Smallest and largest subgroup.
    pub subgroup_size: (u32, u32),
    /// GPU timestamps.
    pub timestamps: bool,
    /// Cooperative-matrix shapes (empty: none).
    pub coop: Vec<CoopShape>,
    /// Features that the driver lists and that are left alone, because it fails with them. Those that it refuses are known
    /// once the adapter has been opened ([`Gpu::report`](super::Gpu::report)).
    pub left_out: Vec<LeftOut>,
    /// Why this program cannot use the adapter, if it cannot.
    pub unusable: Option<String>,
}

impl AdapterReport {
    /// Takes back what the adapter was opened without.
    pub(super) fn leave_out(&mut self, refused: Vec<LeftOut>) {
        // The driver's own refusal is the better reason.
        self.left_out
            .retain(|l| !refused.iter().any(|r| r.feature == l.feature));
        for LeftOut { feature, .. } in &refused {
            match *feature {
                SUBGROUPS => self.subgroups = false,
                F16 => self.f16 = false,
                TIMESTAMPS => self.timestamps = false,
                COOP => self.coop.clear(),
                _ => {}
            }
        }
        self.left_out.extend(refused);
    }

    /// Whether the adapter has what a kernel needs beyond the portable path.
    pub fn runs(&self, kernel: &Kernel) -> bool {
        (self.f16 || !kernel.needs_f16)
            && (self.subgroups || !kernel.needs_subgroups)
            && kernel.subgroup_size.is_none_or(|n| self.subgroup_size == (n, n))
            && kernel
                .subgroups
                .is_none_or(|n| n * self.subgroup_size.1 <= self.max_invocations.min(256))
            && kernel
                .needs_coop
                .is_none_or(|wanted| self.coop.iter().any(|shape| shape.is(&wanted)))
    }

    /// The larger side of the cooperative matrices that kernels multiply on here ([`Kernel::coop`]);
    /// `None` where neither runs.
    pub fn coop_side(&self) -> Option<u32> {
        let runs = |side: &u32| self.runs(&Kernel::coop("matmul", &[], *side));
        [16, 8].into_iter().find(runs)
    }
}

fn instance(backends: wgpu::Backends) -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    // Validation layers belong to the driver's developers; wgpu validates by itself.
    descriptor.backends = backends;
    descriptor.flags = wgpu::InstanceFlags::empty().with_env();
    wgpu::Instance::new(descriptor)
}

/// An adapter, and what it reports.
pub(super) struct Found {
    pub(super) adapter: wgpu::Adapter,
    pub(super) report: AdapterReport,
}

/// What a machine has, best first.
#[derive(Default)]
struct Machine {
    adapters: Vec<Found>,
    /// Back ends that failed while they listed their adapters, with the reason.
    failed: Vec<String>,
}

fn enumerate() -> Machine {
    let mut machine = Machine::default();
    let mut all = Vec::new();
    // One back end at a time: one that fails takes no other's adapters with it.
    let mut on = |backends: wgpu::Backends| {
        for backend in backends.with_env().iter() {
            let list = || pollster::block_on(instance(backend).enumerate_adapters(backend));
            match guarded(list) {
                Ok(found) => all.extend(found),
                Err(why) => {
                    let failed = format!("{backend:?}: listing the adapters failed inside the driver: {why}");
                    log::warn!("{failed}");
                    machine.failed.push(failed);
                }
            }
        }
        all.is_empty()
    };
    // GL only where nothing better answers, or where WGPU_BACKEND asks for it: it is the slowest way to the same chip.
    if on(wgpu::Backends::PRIMARY) {
        on(wgpu::Backends::SECONDARY);
    }
    all.sort_by_key(|a| {
        let info = a.get_info();
        (kind(info.device_type), info.backend == wgpu::Backend::Gl)
    });
    let found = |(index, adapter)| {
        let report = report(index, &adapter);
        Found { adapter, report }
    };
    machine.adapters = all.into_iter().enumerate().map(found).collect();
    machine
}

fn kind(t: wgpu::DeviceType) -> DeviceKind {
    match t {
        wgpu::DeviceType::DiscreteGpu => DeviceKind::Discrete,
        wgpu::DeviceType::IntegratedGpu => DeviceKind::Integrated,
        wgpu::DeviceType::VirtualGpu => DeviceKind::Virtual,
        wgpu::DeviceType::Cpu => DeviceKind::Cpu,
        wgpu::DeviceType::Other => DeviceKind::Other,
    }
}

pub(super) fn report(index: usize, adapter: &wgpu::Adapter) -> AdapterReport {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    // Without the feature the table cannot be used, whatever it holds.
    let mut coop: Vec<CoopShape> = adapter
        .cooperative_matrix_properties()
        .iter()
        .filter(|_| features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX))
        .map(|p| CoopShape {
            m: p.m_size,
            n: p.n_size,
            k: p.k_size,
            ab: format!("{:?}", p.ab_type).to_lowercase(),
            c: format!("{:?}", p.cr_type).to_lowercase(),
        })
        .collect();
    let mut left_out = Vec::new();
    if let Some(why) = coop_crashes(&info.driver, info.subgroup_max_size).filter(|_| !coop.is_empty()) {
        coop.clear();
        left_out.push(LeftOut { feature: COOP, why });
    }
    AdapterReport {
        index,
        name: piece(&info.name),
        backend: format!("{:?}", info.backend),
        kind: kind(info.device_type),
        driver: piece(&info.driver),
        driver_info: piece(&info.driver_info),
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_buffer_bytes: limits.max_buffer_size,
        max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
        max_invocations: limits.max_compute_invocations_per_workgroup,
        max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
        max_immediate_bytes: limits.max_immediate_size,
        max_workgroups: limits.max_compute_workgroups_per_dimension,
        f16: features.contains(wgpu::Features::SHADER_F16),
        subgroups: features.contains(wgpu::Features::SUBGROUP),
        subgroup_size: (info.subgroup_min_size, info.subgroup_max_size),
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
        coop,
        left_out,
        unusable: unusable(&limits, features),
    }
}

/// What [`LeftOut::feature`] calls the features that a report has a field for.
pub(super) const SUBGROUPS: &str = "subgroups";
pub(super) const F16: &str = "f16";
pub(super) const TIMESTAMPS: &str = "timestamps";
pub(super) const COOP: &str = "cooperative matrices";

/// Why a driver's cooperative matrices must be left alone, if they must.
fn coop_crashes(driver: &str, subgroup_size: u32) -> Option<String> {
    // Mesa 26.1 lists them at every vector width, and dies of a segmentation fault while it compiles one.
    (driver == "llvmpipe" && subgroup_size != 8).then(|| {
        format!(
            "lavapipe crashes while it compiles them unless its subgroups have 8 threads; here they have {subgroup_size}"
        )
    })
}

/// The least an adapter must give: see `docs/design/kernels.md`.
pub(super) const LEAST: wgpu::Limits = wgpu::Limits {
    max_storage_buffers_per_shader_stage: 8,
    max_compute_invocations_per_workgroup: 256,
    max_compute_workgroup_storage_size: 16 << 10,
    max_storage_buffer_binding_size: 128 << 20,
    max_immediate_size: 128,
    ..wgpu::Limits::defaults()
};

/// What an adapter holds in one buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferLimits {
    /// The adapter, for messages.
    pub adapter: String,
    /// Bytes that a kernel sees of one buffer.
    pub binding: u64,
    /// Bytes of a buffer that no kernel sees.
    pub buffer: u64,
}

impl BufferLimits {
    /// Those of the smallest adapter that this crate accepts.
    pub fn least() -> Self {
        Self {
            adapter: "of the smallest kind".into(),
            binding: LEAST.max_storage_buffer_binding_size,
            buffer: LEAST.max_buffer_size,
        }
    }

    /// What is wrong with a buffer of `bytes` that kernels bind.
    pub fn binds(&self, label: &str, bytes: u64) -> Option<String> {
        (bytes > self.binding).then(|| {
            format!(
                "{label} needs {bytes} bytes in one binding; adapter {} binds at most {}",
                self.adapter, self.binding
            )
        })
    }

    /// What is wrong with a buffer of `bytes` for results on their way to the host.
    pub fn holds(&self, label: &str, bytes: u64) -> Option<String> {
        (bytes > self.buffer).then(|| {
            format!(
                "{label} needs {bytes} bytes in one buffer; adapter {} makes buffers of at most {}",
                self.adapter, self.buffer
            )
        })
    }
}

/// What an adapter lacks of that.
fn unusable(limits: &wgpu::Limits, features: wgpu::Features) -> Option<String> {
    let mut lacks = Vec::new();
    let mut need = |what: &str, has: u64, wants: u64| {
        if has < wants {
            lacks.push(format!("{what} is {has}, {wants} are needed"));
        }
    };
    need(
        "storage buffers a stage",
        limits.max_storage_buffers_per_shader_stage.into(),
        LEAST.max_storage_buffers_per_shader_stage.into(),
    );
    need(
        "invocations a workgroup",
        limits.max_compute_invocations_per_workgroup.into(),
        LEAST.max_compute_invocations_per_workgroup.into(),
    );
    need(
        "workgroup memory in bytes",
        limits.max_compute_workgroup_storage_size.into(),
        LEAST.max_compute_workgroup_storage_size.into(),
    );
    need(
        "the largest binding in bytes",
        limits.max_storage_buffer_binding_size,
        LEAST.max_storage_buffer_binding_size,
    );
    need(
        "immediate data in bytes",
        limits.max_immediate_size.into(),
        LEAST.max_immediate_size.into(),
    );
    if !features.contains(wgpu::Features::IMMEDIATES) {
        lacks.push("no immediate data (push constants)".into());
    }
    (!lacks.is_empty()).then(|| lacks.join("; "))
}

/// Every adapter of this machine, best first (discrete, integrated, virtual, CPU; Vulkan before GL).
pub fn list_adapters() -> Vec<AdapterReport> {
    enumerate().adapters.into_iter().map(|a| a.report).collect()
}

/// The adapters that `wanted` names (an index, or part of a name), or without one all usable ones, best first; never none.
///
/// # Errors
/// No adapter at all, none that matches, or one that is too small: each says what to do.
pub(super) fn choose(wanted: Option<&str>) -> Result<Vec<Found>> {
    let Machine {
        adapters: all,
        failed,
    } = enumerate();
    if all.is_empty() {
        let failed: String = failed.iter().map(|why| format!(" ({why})")).collect();
        return Err(Error::user(format!(
            "no GPU adapter found (Vulkan, Metal or DX12){failed}. Install your GPU's driver, or a software Vulkan driver: \
             `apt-get install mesa-vulkan-drivers libvulkan1` on Debian and Ubuntu, `dnf install mesa-vulkan-drivers \
             vulkan-loader` on Fedora; then check with `tea-wgpu devices`",
        )));
    }
    let reports: Vec<&AdapterReport> = all.iter().map(|a| &a.report).collect();
    let listing = || {
        reports
            .iter()
            .map(|r| format!("{}: {} ({})", r.index, r.name, r.backend))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let too_small = |r: &AdapterReport, why: &str| {
        Error::user(format!(
            "adapter {} is too small for tea-wgpu: {why}. Choose another with --device (this machine has {})",
            r.name,
            listing()
        ))
    };
    let index = match wanted.map(str::trim).filter(|w| !w.is_empty()) {
        None => {
            let usable = |a: &Found| a.report.unusable.is_none();
            if !all.iter().any(usable) {
                let why = reports[0].unusable.as_deref().unwrap_or_default();
                return Err(too_small(reports[0], why));
            }
            return Ok(all.into_iter().filter(usable).collect());
        }
        Some(w) => match w.parse::<usize>() {
            Ok(i) if i < reports.len() => i,
            Ok(i) => {
                return Err(Error::user(format!(
                    "--device {i}: there is no such adapter; this machine has {}",
                    listing()
                )));
            }
            Err(_) => {
                let w = w.to_lowercase();
                let hit = |r: &&&AdapterReport| {
                    r.name.to_lowercase().contains(&w)
                        || format!("{}/{}", r.backend, r.name).to_lowercase().contains(&w)
                };
                reports.iter().find(hit).map(|r| r.index).ok_or_else(|| {
                    Error::user(format!(
                        "--device {w}: no adapter's name contains it; this machine has {}",
                        listing()
                    ))
                })?
            }
        },
    };
    if let Some(why) = &reports[index].unusable {
        return Err(too_small(reports[index], why));
    }
    Ok(all.into_iter().filter(|a| a.report.index == index).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn lavapipes_cooperative_matrices_count_at_eight_threads_alone() {
        assert_eq!(coop_crashes("llvmpipe", 8), None);
        assert_eq!(coop_crashes("NVIDIA", 32), None);
        for size in [4, 16, 32, 64] {
            let why = coop_crashes("llvmpipe", size).unwrap();
            assert!(why.ends_with(&format!("here they have {size}")), "{why}");
        }
    }

    #[test]
    fn an_adapter_that_is_too_small_is_told_what_it_lacks() {
        let all = wgpu::Features::IMMEDIATES;
        assert_eq!(unusable(&LEAST, all), None);
        type Shrink = fn(&mut wgpu::Limits);
        let cases: [(Shrink, &str); 5] = [
            (
                |l| l.max_storage_buffers_per_shader_stage = 4,
                "storage buffers a stage is 4, 8 are needed",
            ),
            (
                |l| l.max_compute_invocations_per_workgroup = 128,
                "256 are needed",
            ),
            (
                |l| l.max_compute_workgroup_storage_size = 8 << 10,
                "16384 are needed",
            ),
            (
                |l| l.max_storage_buffer_binding_size = 64 << 20,
                "binding in bytes is 67108864",
            ),
            (|l| l.max_immediate_size = 0, "immediate data in bytes is 0"),
        ];
        for (shrink, message) in cases {
            let mut limits = LEAST;
            shrink(&mut limits);
            let why = unusable(&limits, all).unwrap();
            assert!(why.contains(message) && !why.contains(';'), "{why}");
        }
        let bare = unusable(
            &wgpu::Limits::downlevel_webgl2_defaults(),
            wgpu::Features::empty(),
        )
        .unwrap();
        assert!(bare.contains("; ") && bare.contains("push constants"), "{bare}");
    }
}
