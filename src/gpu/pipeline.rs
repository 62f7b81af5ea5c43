//! Reflection of kernels (bind groups come from the shader, not from a second list), pipelines, and their cache.

use super::buffer::Buffer;
use super::device::Gpu;
use super::kernel::Kernel;
use super::layout::{Member, Scalar};
use crate::error::{Error, Result};
use crate::file::dirs;
use crate::file::limits::PIPELINE_CACHE;
use crate::file::open::read;
use crate::file::write::write_atomic;
use std::path::{Path, PathBuf};

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

/// Reads the bindings and the parameter layout of a kernel.
///
/// # Errors
/// The WGSL does not parse, or its bindings are not group 0 and 0, 1, 2, … .
pub fn reflect(kernel: &Kernel) -> Result<Reflection> {
    reflect_text(kernel, &kernel.wgsl())
}

fn reflect_text(kernel: &Kernel, wgsl: &str) -> Result<Reflection> {
    let name = kernel.name;
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|e| {
        let line = e.location(wgsl).map_or(0, |at| at.line_number as usize);
        let (place, why) = (kernel.shown(line), e.emit_to_string(wgsl));
        Error::internal(format!("shader {name}, {place}: {why}"))
    })?;
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
        let reflection = reflect_text(kernel, &wgsl)?;
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
            Some(e) => {
                let place =
                    invalid_line(&module).map_or(String::new(), |at| format!(", {}", kernel.shown(at)));
                return Err(Error::Gpu(format!("kernel {}{place}: {e}", kernel.name)));
            }
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

/// The line of a module that wgpu refused, if it says which.
fn invalid_line(module: &wgpu::ShaderModule) -> Option<usize> {
    let info = pollster::block_on(module.get_compilation_info());
    let place = info.messages.into_iter().find_map(|m| m.location)?;
    Some(place.line_number as usize)
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
