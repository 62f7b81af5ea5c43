//! Kernels, their reflection (bind groups come from the shader, not from a second list), and the pipeline cache.

use super::buffer::Buffer;
use super::device::Gpu;
use super::layout::{Member, Scalar};
use crate::error::{Error, Result};
use crate::file::dirs;
use crate::file::limits::PIPELINE_CACHE;
use crate::file::open::read;
use crate::file::write::write_atomic;
use std::path::{Path, PathBuf};

/// The cooperative-matrix shape a kernel is written for: `C (m×n) += A (m×k) · B (k×n)`, a row of the driver's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coop {
    /// Rows of A and C.
    pub m: u32,
    /// Columns of B and C.
    pub n: u32,
    /// Columns of A, rows of B.
    pub k: u32,
    /// Element type of A and B.
    pub ab: &'static str,
    /// Element type of C.
    pub c: &'static str,
}

/// A compute shader: one entry point `main`, bindings in group 0, parameters in `var<immediate>`.
#[derive(Debug)]
pub struct Kernel {
    /// The op's name, everywhere: shader file, table, tests, benches, GPU labels.
    pub name: &'static str,
    /// WGSL texts that are appended to make the module (the shader first, shared parts after).
    pub parts: &'static [&'static str],
    /// Needs `SHADER_F16`.
    pub needs_f16: bool,
    /// Needs `SUBGROUP`.
    pub needs_subgroups: bool,
    /// Needs subgroups of exactly this many threads, one workgroup each.
    pub subgroup_size: Option<u32>,
    /// Needs a workgroup of this many of the adapter's largest subgroups.
    pub subgroups: Option<u32>,
    /// Needs cooperative matrices of this shape.
    pub needs_coop: Option<Coop>,
}

/// Subgroups that multiply in a workgroup of [`Kernel::coop8`] and [`Kernel::coop16`].
pub const COOP_SUBGROUPS: u32 = 4;

impl Kernel {
    /// A kernel that runs on every adapter.
    pub const fn portable(name: &'static str, parts: &'static [&'static str]) -> Self {
        Self {
            name,
            parts,
            needs_f16: false,
            needs_subgroups: false,
            subgroup_size: None,
            subgroups: None,
            needs_coop: None,
        }
    }

    /// A kernel whose workgroup is one subgroup of eight threads: a SIMD register of a CPU adapter.
    pub const fn subgroup8(name: &'static str, parts: &'static [&'static str]) -> Self {
        Self {
            needs_subgroups: true,
            subgroup_size: Some(8),
            ..Self::portable(name, parts)
        }
    }

    /// A kernel of 8 × 8 × 8 cooperative matrices, f16 in and f32 sums, in workgroups of four subgroups.
    pub const fn coop8(name: &'static str, parts: &'static [&'static str]) -> Self {
        Self::coop(name, parts, 8)
    }

    /// As [`Kernel::coop8`] with 16 × 16 × 16.
    pub const fn coop16(name: &'static str, parts: &'static [&'static str]) -> Self {
        Self::coop(name, parts, 16)
    }

    const fn coop(name: &'static str, parts: &'static [&'static str], side: u32) -> Self {
        Self {
            needs_f16: true,
            needs_subgroups: true,
            subgroups: Some(COOP_SUBGROUPS),
            needs_coop: Some(Coop {
                m: side,
                n: side,
                k: side,
                ab: "f16",
                c: "f32",
            }),
            ..Self::portable(name, parts)
        }
    }

    /// The module's whole WGSL text.
    pub fn wgsl(&self) -> String {
        self.parts.join("\n")
    }
}

/// One argument of a dispatch, in the order of the shader's `@binding` numbers.
#[derive(Clone, Copy)]
pub enum Binding<'a> {
    /// A whole buffer.
    Buffer(&'a Buffer),
    /// An argument this call does not use; the shader must not touch it. At most one that the shader may write.
    Unused,
}

impl<'a> From<&'a Buffer> for Binding<'a> {
    fn from(b: &'a Buffer) -> Self {
        Self::Buffer(b)
    }
}

impl<'a> From<Option<&'a Buffer>> for Binding<'a> {
    fn from(b: Option<&'a Buffer>) -> Self {
        b.map_or(Self::Unused, Self::Buffer)
    }
}

/// What naga reads from a shader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reflection {
    /// For each `@binding`, in order: its name and whether the shader may write it.
    pub bindings: Vec<(String, bool)>,
    /// Bytes of `var<immediate>`.
    pub immediate_bytes: u32,
    /// Every member of the immediate struct.
    pub immediate_members: Vec<Member>,
}

/// Reads the bindings and the parameter layout of a shader.
///
/// # Errors
/// The WGSL does not parse, or its bindings are not group 0 and 0, 1, 2, … .
pub fn reflect(name: &str, wgsl: &str) -> Result<Reflection> {
    let module = naga::front::wgsl::parse_str(wgsl)
        .map_err(|e| Error::internal(format!("shader {name}: {}", e.emit_to_string(wgsl))))?;
    let mut bindings = Vec::new();
    let (mut immediate_bytes, mut immediate_members) = (0, Vec::new());
    for (_, var) in module.global_variables.iter() {
        match var.space {
            naga::AddressSpace::Storage { access } => {
                let Some(at) = &var.binding else { continue };
                if at.group != 0 {
                    return Err(Error::internal(format!(
                        "shader {name}: bindings live in group 0"
                    )));
                }
                let writes = access.contains(naga::StorageAccess::STORE);
                bindings.push((at.binding, var.name.clone().unwrap_or_default(), writes));
            }
            naga::AddressSpace::Immediate => {
                let ty = &module.types[var.ty];
                if let naga::TypeInner::Struct { members, span } = &ty.inner {
                    immediate_bytes = *span;
                    immediate_members = members
                        .iter()
                        .map(|m| Member {
                            name: m.name.clone().unwrap_or_default().into(),
                            offset: m.offset as usize,
                            scalar: scalar(&module.types[m.ty].inner),
                        })
                        .collect();
                }
            }
            _ => {}
        }
    }
    bindings.sort_by_key(|b| b.0);
    if bindings.iter().enumerate().any(|(i, b)| b.0 as usize != i) {
        return Err(Error::internal(format!(
            "shader {name}: bindings are not numbered 0, 1, 2, …"
        )));
    }
    let bindings = bindings.into_iter().map(|(_, n, w)| (n, w)).collect();
    Ok(Reflection {
        bindings,
        immediate_bytes,
        immediate_members,
    })
}

/// WGSL's name of a type that parameters have.
fn scalar(ty: &naga::TypeInner) -> &'static str {
    match ty {
        naga::TypeInner::Scalar(naga::Scalar::U32) => u32::WGSL,
        naga::TypeInner::Scalar(naga::Scalar::F32) => f32::WGSL,
        _ => "another type",
    }
}

pub(super) struct Pipeline {
    pub(super) kernel: &'static Kernel,
    pub(super) raw: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
    /// Whether the shader may write each binding.
    pub(super) bindings: Vec<bool>,
    pub(super) immediate_bytes: u32,
    pub(super) members: Vec<Member>,
}

impl Pipeline {
    pub(super) fn new(gpu: &Gpu, kernel: &'static Kernel, constants: &[(&'static str, f64)]) -> Result<Self> {
        let wgsl = kernel.wgsl();
        let reflection = reflect(kernel.name, &wgsl)?;
        let device = &gpu.0.device;
        // What the driver's compiler runs into is an error of this pipeline, not of the submission after it.
        let scopes = [
            wgpu::ErrorFilter::OutOfMemory,
            wgpu::ErrorFilter::Internal,
            wgpu::ErrorFilter::Validation,
        ]
        .map(|filter| device.push_error_scope(filter));
        let module = create_module(gpu, kernel.name, wgsl);
        let entries: Vec<_> = (0u32..)
            .zip(&reflection.bindings)
            .map(|(binding, (_, writes))| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: !writes },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(kernel.name),
            entries: &entries,
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(kernel.name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: reflection.immediate_bytes,
        });
        let raw = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants,
                zero_initialize_workgroup_memory: false,
            },
            cache: gpu.0.cache.as_ref(),
        });
        let mut failed = None;
        for scope in scopes.into_iter().rev() {
            failed = failed.or(pollster::block_on(scope.pop()));
        }
        match failed {
            Some(wgpu::Error::OutOfMemory { source }) => {
                return Err(Error::OutOfMemory(format!("kernel {}: {source}", kernel.name)));
            }
            Some(e) => return Err(Error::Gpu(format!("kernel {}: {e}", kernel.name))),
            None => {}
        }
        Ok(Self {
            kernel,
            raw,
            layout,
            bindings: reflection.bindings.iter().map(|(_, writes)| *writes).collect(),
            immediate_bytes: reflection.immediate_bytes,
            members: reflection.immediate_members,
        })
    }
}

#[allow(
    unsafe_code,
    reason = "unchecked shaders in release: every kernel guards its own bounds; tests run its cases with and without checks"
)]
fn create_module(gpu: &Gpu, name: &str, wgsl: String) -> wgpu::ShaderModule {
    let descriptor = wgpu::ShaderModuleDescriptor {
        label: Some(name),
        source: wgpu::ShaderSource::Wgsl(wgsl.into()),
    };
    if gpu.0.trusted {
        // SAFETY: the shaders are this crate's own, their indices are guarded, and their loops end.
        unsafe {
            gpu.0
                .device
                .create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
        }
    } else {
        gpu.0.device.create_shader_module(descriptor)
    }
}

/// The on-disk pipeline cache, where the adapter has one (Vulkan).
#[allow(
    unsafe_code,
    reason = "wgpu asks for a promise that the bytes came from an earlier run of the same driver"
)]
pub(super) fn open_cache(
    device: &wgpu::Device,
    info: &wgpu::AdapterInfo,
) -> (Option<wgpu::PipelineCache>, Option<PathBuf>) {
    if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
        return (None, None);
    }
    let file = wgpu::util::pipeline_cache_key(info)
        .zip(cache_dir("pipelines"))
        .map(|(key, dir)| {
            // The driver's version is part of the name: wgpu's key alone does not change with it.
            let version: String = info
                .driver_info
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
                .collect();
            dir.join(format!("{key}_{version}"))
        });
    let data = file.as_ref().and_then(|f| read(f, &PIPELINE_CACHE).ok());
    // SAFETY: the file is written by `save_cache` under this adapter's key, and wgpu checks its header;
    // `fallback` makes an invalid one an empty cache.
    let cache = unsafe {
        device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor {
            label: Some("tea-wgpu"),
            data: data.as_deref(),
            fallback: true,
        })
    };
    (Some(cache), file)
}

/// A directory of the user's cache for files of this kind; it need not be there.
pub(crate) fn cache_dir(kind: &str) -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| Path::new(&h).join(".cache")))
        .or_else(|| std::env::var_os("LOCALAPPDATA").map(PathBuf::from))?;
    Some(base.join("tea-wgpu").join(kind))
}

/// Best effort: a cache that cannot be written costs time at the next start, nothing else.
pub(super) fn save_cache(cache: Option<&wgpu::PipelineCache>, file: Option<&Path>) {
    let (Some(data), Some(file)) = (cache.and_then(wgpu::PipelineCache::get_data), file) else {
        return;
    };
    write_cache(file, &data);
}

/// Writes a file of the cache whole or not at all; best effort.
pub(crate) fn write_cache(file: &Path, data: &[u8]) {
    let Some(dir) = file.parent() else { return };
    if let Err(e) = dirs::make(dir).and_then(|()| write_atomic(file, data)) {
        log::debug!("not saved to {}: {e}", file.display());
    }
}
