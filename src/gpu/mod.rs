//! The only module that names `wgpu`: adapters, limits, buffers, pipelines, recording, readback, timestamps.
//!
//! A [`Gpu`] is an open device. [`Buffer`]s are allocated from it (never above the adapter's binding cap),
//! a [`Recorder`] batches dispatches of [`Kernel`]s into submissions, and [`Gpu::read`] or a
//! [`Readback`] brings data back.
//! Errors that wgpu reports outside a call (validation, lost device) are kept and returned by the next
//! submission or readback as a typed [`Error`](crate::error::Error); nothing aborts silently.

mod adapters;
mod buffer;
mod choices;
mod counting;
mod device;
mod environment;
mod features;
mod imagined;
mod kernel;
mod layout;
mod pipeline;
mod profile;
mod readback;
mod recorder;

pub use adapters::{AdapterReport, BufferLimits, CoopShape, DeviceKind, LeftOut, list_adapters};
pub use buffer::{Buffer, MemoryReport};
pub use device::{Caps, Gpu, GpuOptions, Tune};
pub use environment::quiet_device_select;
pub use imagined::Imagined;
pub(crate) use kernel::shaders;
pub use kernel::{COOP_SUBGROUPS, Coop, Kernel, Source, Value};
pub use layout::{Member, Params, Scalar, params};
pub use pipeline::{Binding, Reflection, reflect};
pub(crate) use pipeline::{cache_dir, write_cache};
pub use profile::ProfileRow;
pub use readback::{Readback, Submission};
pub use recorder::Recorder;
