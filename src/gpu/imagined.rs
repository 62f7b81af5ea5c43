//! Devices of adapters that this machine does not have: they take every command and compute nothing.
//!
//! Recording on one shows which pipelines an adapter of that kind would be given, and has wgpu check them against the
//! least limits that this crate accepts. No driver takes part.

use super::adapters::{AdapterReport, CoopShape, DeviceKind, LEAST, report};
use super::device::{Gpu, GpuOptions};
use super::features::experimental;
use crate::error::{Error, Result};

/// An adapter to imagine.
#[derive(Debug, Clone, Copy)]
pub struct Imagined {
    /// What it is: CPU adapters and GPUs take other variants.
    pub kind: DeviceKind,
    /// 16-bit floats in shaders.
    pub f16: bool,
    /// Threads in each of its subgroups; `None` has no subgroup operations.
    pub subgroup_size: Option<u32>,
    /// The side of its cooperative matrices, of every pair of types that kernels multiply; `None` has none.
    pub coop: Option<u32>,
}

impl Imagined {
    fn device_type(self) -> wgpu::DeviceType {
        match self.kind {
            DeviceKind::Discrete => wgpu::DeviceType::DiscreteGpu,
            DeviceKind::Integrated => wgpu::DeviceType::IntegratedGpu,
            DeviceKind::Virtual => wgpu::DeviceType::VirtualGpu,
            DeviceKind::Cpu => wgpu::DeviceType::Cpu,
            DeviceKind::Other => wgpu::DeviceType::Other,
        }
    }

    fn features(self) -> wgpu::Features {
        let mut features = wgpu::Features::IMMEDIATES;
        features.set(wgpu::Features::SHADER_F16, self.f16);
        features.set(wgpu::Features::SUBGROUP, self.subgroup_size.is_some());
        features.set(
            wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX,
            self.coop.is_some(),
        );
        features
    }

    fn shapes(self) -> Vec<CoopShape> {
        let shape = |side, (ab, c): (&str, &str)| CoopShape {
            m: side,
            n: side,
            k: side,
            ab: ab.to_owned(),
            c: c.to_owned(),
        };
        let types = [("f16", "f32"), ("f16", "f16"), ("f32", "f32")];
        let shapes = |side| types.map(|types| shape(side, types));
        self.coop.map(shapes).into_iter().flatten().collect()
    }
}

impl Gpu {
    /// A device of an imagined adapter, with the least limits that this crate accepts. What is read back from it means
    /// nothing. `options` name no device here.
    ///
    /// # Errors
    /// As [`Gpu::open`], for `options`.
    pub fn imagine(adapter: Imagined, options: &GpuOptions) -> Result<Self> {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = wgpu::Backends::NOOP;
        descriptor.backend_options.noop = wgpu::NoopBackendOptions {
            enable: true,
            limits: Some(LEAST),
            features: Some(adapter.features()),
            device_type: Some(adapter.device_type()),
            subgroup_min_size: adapter.subgroup_size,
            subgroup_max_size: adapter.subgroup_size,
        };
        let found = wgpu::Instance::new(descriptor).enumerate_adapters(wgpu::Backends::NOOP);
        let raw = pollster::block_on(found)
            .pop()
            .ok_or_else(|| Error::internal("wgpu was built without its noop backend"))?;
        let request = wgpu::DeviceDescriptor {
            label: Some("tea-wgpu, imagined"),
            required_features: adapter.features(),
            required_limits: LEAST,
            experimental_features: experimental(adapter.features()),
            ..Default::default()
        };
        let opened = pollster::block_on(raw.request_device(&request)).map_err(Error::internal)?;
        let report = AdapterReport {
            coop: adapter.shapes(),
            ..report(0, &raw)
        };
        Self::new(options, report, opened, (None, None))
    }
}
