//! The parameters of a kernel: declared once in Rust, compared with the shader's immediate struct.

use std::borrow::Cow;
use std::fmt;

/// One member of an immediate struct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name, the same in Rust and in WGSL.
    pub name: Cow<'static, str>,
    /// Bytes before it.
    pub offset: usize,
    /// WGSL's name of its type.
    pub scalar: &'static str,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} at {}", self.name, self.scalar, self.offset)
    }
}

/// A kernel's parameters; `params!` declares them.
pub trait Params: bytemuck::Pod {
    /// The members, in order.
    const MEMBERS: &'static [Member];
}

/// A type that a parameter may have.
pub trait Scalar: bytemuck::Pod {
    /// WGSL's name of it.
    const WGSL: &'static str;
}

impl Scalar for u32 {
    const WGSL: &'static str = "u32";
}

impl Scalar for f32 {
    const WGSL: &'static str = "f32";
}

/// Declares the parameters of kernels as the shader's immediate struct has them: the same members in the same order.
/// A dispatch compares the two.
#[doc(hidden)]
#[macro_export]
macro_rules! __params {
    ($($vis:vis struct $name:ident { $($member_vis:vis $member:ident: $scalar:ty),* $(,)? })+) => {$(
        #[repr(C)]
        #[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
        $vis struct $name {
            $($member_vis $member: $scalar),*
        }

        impl $crate::gpu::Params for $name {
            const MEMBERS: &'static [$crate::gpu::Member] = &[$($crate::gpu::Member {
                name: std::borrow::Cow::Borrowed(stringify!($member)),
                offset: std::mem::offset_of!($name, $member),
                scalar: <$scalar as $crate::gpu::Scalar>::WGSL,
            }),*];
        }
    )+};
}
pub use __params as params;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::{DeviceKind, Gpu, GpuOptions, Imagined, Kernel, Recorder, Source};
    use super::{Params, params};

    static KERNEL: Kernel = Kernel::portable(
        "two_parameters",
        &[Source {
            file: "two_parameters.wgsl",
            text: "
struct Params { n: u32, scale: f32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@compute @workgroup_size(1)
fn main() { out[p.n] = p.scale; }
",
        }],
    );

    params! {
        struct Same { n: u32, scale: f32 }
        struct Swapped { scale: f32, n: u32 }
        struct Retyped { n: u32, scale: u32 }
    }

    fn refused<P: Params>(params: P) -> Option<String> {
        let adapter = Imagined {
            kind: DeviceKind::Cpu,
            f16: false,
            subgroup_size: None,
            coop: None,
        };
        let gpu = Gpu::imagine(adapter, &GpuOptions::default()).unwrap();
        let out = gpu.alloc("out", 4).unwrap();
        let result = Recorder::new(&gpu).dispatch(&KERNEL, &[], &params, &[(&out).into()], [1, 1, 1]);
        result.err().map(|e| e.to_string())
    }

    #[test]
    fn parameters_of_another_order_or_type_are_refused() {
        assert_eq!(refused(Same { n: 0, scale: 1.0 }), None);
        let error = refused(Swapped { scale: 1.0, n: 0 }).unwrap();
        assert!(error.contains("(scale: f32 at 0, n: u32 at 4)"), "{error}");
        assert!(error.contains("(n: u32 at 0, scale: f32 at 4)"), "{error}");
        let error = refused(Retyped { n: 0, scale: 1 }).unwrap();
        assert!(error.contains("(n: u32 at 0, scale: u32 at 4)"), "{error}");
    }
}
