//! A tensor's optimiser state on the device, and as files have it.

use super::write_f32;
use crate::config::Optim;
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Gpu, Recorder};
use crate::kernels::adamw::{self, AdamW, AdamWArgs};
use crate::kernels::adamw_8bit::{self, AdamW8bitArgs, BLOCK};
use crate::kernels::pad4;
use crate::kernels::weight::Weight;
use crate::model::params::Trainable;

/// What the elements of a stored part are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// Single precision.
    F32,
    /// A byte.
    U8,
}

impl Element {
    /// Its name in safetensors files.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::U8 => "U8",
        }
    }

    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::U8 => 1,
        }
    }
}

/// One part of a tensor's state, as a file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The tensor's name, a dot, and "m", "v" (the moments) or "scales" (of 8-bit moments).
    pub name: String,
    /// Its elements.
    pub element: Element,
    /// Its shape: the tensor's for f32 moments; the elements of the padded rows for codes; (blocks, 2) for scales.
    pub shape: Vec<usize>,
}

impl Part {
    /// Its bytes.
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.element.bytes()
    }
}

/// Codes and scales of one shard.
pub(super) struct Codes {
    m: Buffer,
    v: Buffer,
    scales: Buffer,
    /// Elements, rows padded.
    n: usize,
}

/// First and second moment of a tensor.
pub(super) enum State {
    F32 { m: Weight, v: Weight },
    Bits8(Vec<Codes>),
}

impl State {
    /// Zeros.
    pub(super) fn new(gpu: &Gpu, t: &Trainable, optim: Optim) -> Result<Self> {
        let zeros = || Weight::zeros(gpu, "optimizer", t.value.rows, t.value.cols);
        Ok(match optim {
            Optim::Adamw => Self::F32 {
                m: zeros()?,
                v: zeros()?,
            },
            Optim::Adamw8bit => {
                let alloc = |bytes: usize| gpu.alloc("optimizer", bytes as u64);
                let codes = |rows: usize| {
                    let n = rows * pad4(t.value.cols);
                    Ok(Codes {
                        m: alloc(n)?,
                        v: alloc(n)?,
                        scales: alloc(8 * n.div_ceil(BLOCK))?,
                        n,
                    })
                };
                let shards = t.grad.shards.iter().map(|s| codes(s.rows));
                Self::Bits8(shards.collect::<Result<_>>()?)
            }
        })
    }

    /// Updates a tensor, the `tensor`-th of those that are trained, from its gradient.
    pub(super) fn step(
        &self,
        rec: &mut Recorder,
        t: &Trainable,
        (norm, tensor): (&Buffer, u64),
        hyper: AdamW,
    ) -> Result<()> {
        let ld = pad4(t.value.cols);
        for (i, (p, g)) in t.value.shards.iter().zip(&t.grad.shards).enumerate() {
            let (param, grad) = (&p.buffer, &g.buffer);
            match self {
                Self::F32 { m, v } => {
                    let args = AdamWArgs {
                        param,
                        grad,
                        m: &m.shards[i].buffer,
                        v: &v.shards[i].buffer,
                        norm,
                    };
                    adamw::step(rec, &args, p.rows * ld, hyper)?;
                }
                Self::Bits8(shards) => {
                    let Codes { m, v, scales, n } = &shards[i];
                    let args = AdamW8bitArgs {
                        param,
                        grad,
                        m,
                        v,
                        scales,
                        norm,
                        tensor,
                        first: p.first_row * ld,
                    };
                    adamw_8bit::step(rec, &args, *n, hyper)?;
                }
            }
        }
        Ok(())
    }

    /// Its parts, in the order of [`State::read`].
    pub(super) fn parts(&self, t: &Trainable) -> Vec<Part> {
        let part = |suffix: &str, element, shape| Part {
            name: format!("{}.{suffix}", t.name),
            element,
            shape,
        };
        match self {
            Self::F32 { .. } => ["m", "v"].map(|s| part(s, Element::F32, t.shape.clone())).into(),
            Self::Bits8(shards) => {
                let n: usize = shards.iter().map(|s| s.n).sum();
                let blocks = shards.iter().map(|s| s.n.div_ceil(BLOCK)).sum();
                vec![
                    part("m", Element::U8, vec![n]),
                    part("v", Element::U8, vec![n]),
                    part("scales", Element::F32, vec![blocks, 2]),
                ]
            }
        }
    }

    /// The bytes of its parts.
    pub(super) fn read(&self, gpu: &Gpu) -> Result<Vec<Vec<u8>>> {
        match self {
            Self::F32 { m, v } => [m, v]
                .iter()
                .map(|w| Ok(bytemuck::pod_collect_to_vec(&w.read_f32(gpu)?)))
                .collect(),
            Self::Bits8(shards) => {
                let mut parts = vec![Vec::new(); 3];
                for Codes { m, v, scales, n } in shards {
                    for (part, (buffer, bytes)) in
                        parts
                            .iter_mut()
                            .zip([(m, *n), (v, *n), (scales, 8 * n.div_ceil(BLOCK))])
                    {
                        part.extend(gpu.read::<u8>(buffer, 0, bytes)?);
                    }
                }
                Ok(parts)
            }
        }
    }

    /// Puts the bytes of its parts back.
    pub(super) fn write(&self, gpu: &Gpu, parts: &[Vec<u8>]) -> Result<()> {
        match (self, parts) {
            (Self::F32 { m, v }, [first, second]) => {
                write_f32(gpu, m, &bytemuck::pod_collect_to_vec::<u8, f32>(first))?;
                write_f32(gpu, v, &bytemuck::pod_collect_to_vec::<u8, f32>(second))
            }
            (Self::Bits8(shards), [first, second, third]) => {
                let (mut at, mut block) = (0, 0);
                for Codes { m, v, scales, n } in shards {
                    let blocks = 8 * n.div_ceil(BLOCK);
                    gpu.write(m, 0, &first[at..at + n]);
                    gpu.write(v, 0, &second[at..at + n]);
                    gpu.write(scales, 0, &third[block..block + blocks]);
                    (at, block) = (at + n, block + blocks);
                }
                Ok(())
            }
            _ => Err(Error::internal("parts of another optimiser")),
        }
    }
}
