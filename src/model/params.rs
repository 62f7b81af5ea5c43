//! A model's tensors on the GPU: frozen or trainable, with a LoRA adapter beside any linear layer.

use super::peft::{Module, lora_name, score_name};
use super::spec::{Head, ModelSpec, Proj, Role, TensorSpec};
use super::store::{HostTensor, WeightStore};
use super::stream::Streamed;
use crate::error::{Context, Error, Result};
use crate::gpu::{Buffer, Gpu, Recorder};
use crate::kernels::rope::RopeTable;
use crate::kernels::weight::Weight;
use crate::tensor::DType;
use std::sync::Arc;

/// A tensor and, while it is trained, its gradient. Vectors are one-row matrices.
#[derive(Debug, Clone)]
pub struct Param {
    /// The values.
    pub value: Weight,
    /// dL/dvalue in f32, same shape; `None` while frozen.
    pub grad: Option<Weight>,
    /// Further buffers like it, for sums that wait for others ([`Model::add_gradient_slots`]).
    pub waiting: Vec<Weight>,
}

impl Param {
    /// A frozen tensor.
    pub fn frozen(value: Weight) -> Self {
        Self {
            value,
            grad: None,
            waiting: Vec::new(),
        }
    }

    /// Gives the tensor a zeroed gradient.
    ///
    /// # Errors
    /// Out of memory; the tensor is not f32.
    pub fn train(&mut self, gpu: &Gpu) -> Result<()> {
        if self.value.dtype != DType::F32 {
            return Err(Error::internal("only f32 tensors are trained"));
        }
        self.grad = Some(Weight::zeros(gpu, "gradients", self.value.rows, self.value.cols)?);
        Ok(())
    }

    /// The only buffer of a tensor that is never split (vectors).
    pub fn vector(&self) -> &Buffer {
        &self.value.shards[0].buffer
    }

    /// The gradient buffer of a slot: 0 is [`Param::grad`].
    ///
    /// # Errors
    /// There is no such slot (a bug).
    pub fn gradient(&self, slot: usize) -> Result<&Weight> {
        let found = match slot {
            0 => self.grad.as_ref(),
            n => self.waiting.get(n - 1),
        };
        found.ok_or_else(|| Error::internal(format!("a tensor without gradient slot {slot}")))
    }

    fn add_slots(&mut self, gpu: &Gpu, slots: usize) -> Result<()> {
        if self.grad.is_some() {
            let (rows, cols) = (self.value.rows, self.value.cols);
            let zeros = || Weight::zeros(gpu, "gradients", rows, cols);
            self.waiting = (0..slots).map(|_| zeros()).collect::<Result<_>>()?;
        }
        Ok(())
    }
}

/// LoRA's pair: `W x + (alpha/r) · B (A x)` (arXiv 2106.09685).
#[derive(Debug, Clone)]
pub struct LoraPair {
    /// A (R, in).
    pub a: Param,
    /// B (out, R).
    pub b: Param,
    /// What B (A x) is multiplied by: alpha / R, unless the adapter's patterns say otherwise.
    pub scale: f64,
}

/// A linear layer.
#[derive(Debug, Clone)]
pub struct Linear {
    /// W (out, in).
    pub weight: Param,
    /// Bias (out).
    pub bias: Option<Param>,
    /// The adapter's pair, if the adapter targets this layer.
    pub lora: Option<LoraPair>,
}

/// One transformer block.
#[derive(Debug, Clone)]
pub struct Block {
    /// RMS norm before attention (C).
    pub attn_norm: Param,
    /// RMS norm before the MLP (C).
    pub mlp_norm: Param,
    /// RMS norms of query and key heads (D), Qwen3.
    pub qk_norm: Option<(Param, Param)>,
    /// The seven linear layers, in the order of [`Proj::ALL`].
    pub linears: Vec<Linear>,
    /// The biases of q, k and v once more, one after another, as they were loaded: a dispatch of all three has room for one buffer.
    pub(super) qkv_biases: Option<Buffer>,
}

impl Block {
    /// A linear layer by name.
    pub fn linear(&self, proj: Proj) -> &Linear {
        &self.linears[proj as usize]
    }
}

impl LoraPair {
    /// The scale as the kernels take it.
    pub fn factor(&self) -> f32 {
        self.scale as f32
    }
}

/// The adapter's shape. Adapters of others may have other ranks and scales in some layers, or none:
/// these are in the [`LoraPair`]s.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraShape {
    /// R; the largest, where there are several.
    pub rank: usize,
    /// lora_alpha; the branch is scaled by alpha / R.
    pub alpha: f64,
    /// Which linear layers have a pair.
    pub targets: Vec<Proj>,
}

impl LoraShape {
    /// The pairs of a model of `layers` blocks, all of one rank and scale.
    pub fn modules(&self, layers: usize) -> Vec<Module> {
        let one = |layer, proj| Module {
            layer,
            proj,
            rank: self.rank,
            scale: self.alpha / self.rank as f64,
        };
        let targeted = || Proj::ALL.into_iter().filter(|p| self.targets.contains(p));
        (0..layers)
            .flat_map(|layer| targeted().map(move |proj| one(layer, proj)))
            .collect()
    }
}

/// A transformer on the GPU: one frozen (or fully trained) base, at most one adapter, one head.
#[derive(Clone)]
pub struct Model {
    /// Sizes and options.
    pub spec: ModelSpec,
    /// Its device.
    pub gpu: Gpu,
    /// Token embedding (V, C); also the vocabulary head when tied.
    pub embed: Param,
    /// The blocks.
    pub blocks: Vec<Block>,
    /// RMS norm before the head (C).
    pub final_norm: Param,
    /// Untied vocabulary head (V, C) or classification head (1, C).
    pub head: Option<Param>,
    /// The adapter's shape, if there is one.
    pub lora: Option<LoraShape>,
    /// Rotary tables.
    pub rope: RopeTable,
    /// Where the blocks' matrices come from, where they are not all on the device.
    pub streamed: Option<Arc<Streamed>>,
}

/// A trainable tensor, as optimiser and checkpoints see it.
#[derive(Debug, Clone)]
pub struct Trainable {
    /// PEFT's name for adapter tensors, the checkpoint's for base tensors.
    pub name: String,
    /// Shape in the file: `[n]` or `[rows, cols]`.
    pub shape: Vec<usize>,
    /// Values and gradient (which is there).
    pub value: Weight,
    /// The gradient.
    pub grad: Weight,
}

impl Model {
    /// Uploads a model. Matrices become `dtype` (or stay as they are stored, where that is `None`); norms, biases
    /// and the classification head are always f32. `positions` is the longest sequence that will be run.
    ///
    /// # Errors
    /// A missing or misshapen tensor, a conversion the format does not allow, or out of memory.
    pub fn load(
        gpu: &Gpu,
        spec: &ModelSpec,
        store: &WeightStore,
        dtype: Option<DType>,
        positions: usize,
    ) -> Result<Self> {
        Self::build(gpu, spec, positions, &mut |t| upload_stored(gpu, t, store, dtype))
    }

    /// Builds a model from any source of tensors.
    ///
    /// # Errors
    /// What the source returns, or out of memory.
    pub fn build(
        gpu: &Gpu,
        spec: &ModelSpec,
        positions: usize,
        source: &mut dyn FnMut(&TensorSpec) -> Result<Weight>,
    ) -> Result<Self> {
        let (mut embed, mut final_norm, mut head) = (None, None, None);
        let mut blocks: Vec<Vec<(Role, Param)>> = vec![Vec::new(); spec.num_layers];
        for t in spec.tensors() {
            let param = Param::frozen(source(&t)?);
            match (t.role, t.layer) {
                (Role::Embedding, _) => embed = Some(param),
                (Role::FinalNorm, _) => final_norm = Some(param),
                (Role::LmHead | Role::Score, _) => head = Some(param),
                (role, Some(layer)) => blocks[layer].push((role, param)),
                (role, None) => {
                    return Err(Error::internal(format!(
                        "tensor {} has role {role:?} and no layer",
                        t.name
                    )));
                }
            }
        }
        let missing = || Error::internal("the specification lists no embedding or norm");
        let blocks = blocks.into_iter().map(|b| block(spec, b));
        let mut blocks: Vec<Block> = blocks.collect::<Result<_>>()?;
        let mut rec = Recorder::new(gpu);
        for block in &mut blocks {
            block.join_biases(&mut rec)?;
        }
        rec.submit()?;
        Ok(Self {
            spec: spec.clone(),
            gpu: gpu.clone(),
            embed: embed.ok_or_else(missing)?,
            blocks,
            final_norm: final_norm.ok_or_else(missing)?,
            head,
            lora: None,
            rope: RopeTable::new(gpu, &spec.inv_freq(), positions)?,
            streamed: None,
        })
    }

    /// The same tensors with nothing written into them, without adapter: for a device that only counts.
    ///
    /// # Errors
    /// A model that does not hold what its specification lists (a bug).
    pub fn outline(&self, gpu: &Gpu) -> Result<Self> {
        Self::build(gpu, &self.spec, self.rope.positions, &mut |t| {
            let held = self.base_param(t);
            let held = held.ok_or_else(|| Error::internal(format!("{} is not loaded", t.name)))?;
            unwritten(gpu, t, held.value.dtype)
        })
    }

    /// The matrix that turns hidden states into logits or scores.
    pub fn head_param(&self) -> &Param {
        self.head.as_ref().unwrap_or(&self.embed)
    }

    /// Makes every base tensor trainable (`--full`).
    ///
    /// # Errors
    /// The base is not f32, or out of memory.
    pub fn train_base(&mut self) -> Result<()> {
        let gpu = self.gpu.clone();
        self.each_base(&mut |p| p.train(&gpu))
    }

    /// Makes the classification head trainable.
    ///
    /// # Errors
    /// The model has none, or out of memory.
    pub fn train_score(&mut self) -> Result<()> {
        let gpu = self.gpu.clone();
        match (&mut self.head, self.spec.head) {
            (Some(head), Head::Score) => head.train(&gpu),
            _ => Err(Error::internal("this model has no classification head")),
        }
    }

    /// Gives every tensor that is trained `slots` gradient buffers more: those of a tree of sums
    /// ([`Summand::extra_slots`](super::pieces::Summand::extra_slots)).
    ///
    /// # Errors
    /// Out of memory.
    pub fn add_gradient_slots(&mut self, slots: usize) -> Result<()> {
        let gpu = self.gpu.clone();
        self.each_base(&mut |p| p.add_slots(&gpu, slots))?;
        for pair in self.blocks.iter_mut().flat_map(|b| &mut b.linears) {
            for p in pair.lora.iter_mut().flat_map(|l| [&mut l.a, &mut l.b]) {
                p.add_slots(&gpu, slots)?;
            }
        }
        Ok(())
    }

    /// Gradient buffers of each of the adapter's tensors beside the first.
    pub fn gradient_slots(&self) -> usize {
        let mut adapters = self.blocks.iter().flat_map(|b| &b.linears);
        let first = adapters.find_map(|pair| pair.lora.as_ref());
        first.map_or(0, |l| l.a.waiting.len())
    }

    fn each_base(&mut self, f: &mut dyn FnMut(&mut Param) -> Result<()>) -> Result<()> {
        f(&mut self.embed)?;
        for b in &mut self.blocks {
            b.each_base(f)?;
        }
        f(&mut self.final_norm)?;
        self.head.as_mut().map_or(Ok(()), f)
    }

    /// A base tensor by role.
    fn base_param(&self, t: &TensorSpec) -> Option<&Param> {
        let block = t.layer.map(|l| &self.blocks[l]);
        match t.role {
            Role::Embedding => Some(&self.embed),
            Role::FinalNorm => Some(&self.final_norm),
            Role::LmHead | Role::Score => self.head.as_ref(),
            Role::AttnNorm => block.map(|b| &b.attn_norm),
            Role::MlpNorm => block.map(|b| &b.mlp_norm),
            Role::QNorm => block.and_then(|b| b.qk_norm.as_ref()).map(|n| &n.0),
            Role::KNorm => block.and_then(|b| b.qk_norm.as_ref()).map(|n| &n.1),
            Role::Weight(p) => block.map(|b| &b.linear(p).weight),
            Role::Bias(p) => block.and_then(|b| b.linear(p).bias.as_ref()),
        }
    }

    /// Every trainable tensor: base tensors in forward order under checkpoint names, then adapter tensors under
    /// PEFT's names. A trained score head beside an adapter is named as PEFT's `modules_to_save` names it.
    pub fn trainable(&self) -> Vec<Trainable> {
        let mut out = Vec::new();
        for t in self.spec.tensors() {
            let Some(Param {
                value,
                grad: Some(grad),
                ..
            }) = self.base_param(&t)
            else {
                continue;
            };
            let adapter_file = self.lora.is_some() && t.role == Role::Score;
            let name = if adapter_file {
                score_name()
            } else {
                t.name.clone()
            };
            out.push(Trainable {
                name,
                shape: t.shape.clone(),
                value: value.clone(),
                grad: grad.clone(),
            });
        }
        for (layer, block) in self.blocks.iter().enumerate() {
            for proj in Proj::ALL {
                let Some(pair) = &block.linear(proj).lora else {
                    continue;
                };
                for (which, p) in [('A', &pair.a), ('B', &pair.b)] {
                    let Some(grad) = &p.grad else { continue };
                    out.push(Trainable {
                        name: lora_name(layer, proj, which),
                        shape: vec![p.value.rows, p.value.cols],
                        value: p.value.clone(),
                        grad: grad.clone(),
                    });
                }
            }
        }
        out
    }

    /// Every base tensor with its name and shape, trainable or not (for saving whole models).
    pub fn base_tensors(&self) -> Vec<(TensorSpec, Weight)> {
        self.spec
            .tensors()
            .filter_map(|t| self.base_param(&t).map(|p| p.value.clone()).map(|w| (t, w)))
            .collect()
    }

    /// Bytes of the base and its heads on the device.
    pub fn base_bytes(&self) -> u64 {
        self.base_tensors().iter().map(|(_, w)| w.bytes()).sum()
    }
}

fn block(spec: &ModelSpec, mut tensors: Vec<(Role, Param)>) -> Result<Block> {
    let mut take = |role: Role| {
        let at = tensors.iter().position(|(r, _)| *r == role);
        at.map(|i| tensors.swap_remove(i).1)
    };
    let lost = |what: &str| Error::internal(format!("a block has no {what}"));
    let linears = Proj::ALL
        .into_iter()
        .map(|p| {
            let weight = take(Role::Weight(p)).ok_or_else(|| lost(p.name()))?;
            Ok(Linear {
                weight,
                bias: take(Role::Bias(p)),
                lora: None,
            })
        })
        .collect::<Result<_>>()?;
    Ok(Block {
        attn_norm: take(Role::AttnNorm).ok_or_else(|| lost("norm"))?,
        mlp_norm: take(Role::MlpNorm).ok_or_else(|| lost("norm"))?,
        qk_norm: if spec.qk_norm {
            take(Role::QNorm).zip(take(Role::KNorm))
        } else {
            None
        },
        linears,
        qkv_biases: None,
    })
}

/// Uploads one tensor: matrices as `dtype`, everything else as f32.
pub(super) fn upload(
    gpu: &Gpu,
    t: &TensorSpec,
    host: &HostTensor<'_>,
    dtype: Option<DType>,
) -> Result<Weight> {
    let (rows, cols) = size(t)?;
    let wanted = wanted(t, host.dtype, dtype);
    if wanted == host.dtype {
        return Weight::upload(gpu, "weights", wanted, rows, cols, &host.bytes);
    }
    let converted = host.convert(wanted).context(&t.name)?;
    Weight::upload(gpu, "weights", wanted, rows, cols, &converted.bytes)
}

/// As [`upload`] of a stored tensor. Matrices go from the file to the device piece by piece.
pub(super) fn upload_stored(
    gpu: &Gpu,
    t: &TensorSpec,
    store: &WeightStore,
    dtype: Option<DType>,
) -> Result<Weight> {
    let stored = store.info(&t.name)?.0;
    if t.shape.len() != 2 && !gpu.counts() {
        return upload(gpu, t, &store.get(&t.name)?, dtype);
    }
    let weight = unwritten(gpu, t, dtype.unwrap_or(stored))?;
    write(gpu, &weight, &t.name, store)?;
    Ok(weight)
}

/// A tensor's place on the device: a matrix as `dtype`, anything else as f32.
pub(super) fn unwritten(gpu: &Gpu, t: &TensorSpec, dtype: DType) -> Result<Weight> {
    let (rows, cols) = size(t)?;
    let dtype = wanted(t, dtype, None);
    Weight::unwritten(gpu, "weights", dtype, rows, cols, gpu.caps().max_binding)
}

/// Rows and columns of a tensor; a vector is a row.
fn size(t: &TensorSpec) -> Result<(usize, usize)> {
    match t.shape[..] {
        [n] => Ok((1, n)),
        [r, c] => Ok((r, c)),
        _ => Err(Error::internal(format!(
            "{}: neither a vector nor a matrix",
            t.name
        ))),
    }
}

/// The element type that a tensor has on the device.
fn wanted(t: &TensorSpec, stored: DType, dtype: Option<DType>) -> DType {
    match t.role.is_matrix() {
        true => dtype.unwrap_or(stored),
        false => DType::F32,
    }
}

/// Writes a stored matrix into a weight, converted to its type.
pub(super) fn write(gpu: &Gpu, weight: &Weight, name: &str, store: &WeightStore) -> Result<()> {
    if gpu.counts() {
        return Ok(());
    }
    store.each_piece(name, &mut |first, host| {
        if host.dtype == weight.dtype {
            weight.write_rows(gpu, first, &host.bytes);
        } else {
            weight.write_rows(gpu, first, &host.convert(weight.dtype).context(name)?.bytes);
        }
        Ok(())
    })
}
