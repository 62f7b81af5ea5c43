//! candle on the CPU (it has no wgpu backend): a square product, and one Llama block forward and backward.

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::ops::{rms_norm_slow, silu, softmax};
use candle_nn::rotary_emb::rope_slow;
use peers::{
    BLOCK_TEST, GEMM_TEST, HEAD_DIM, HEADS, HIDDEN, INTERMEDIATE, KV_HEADS, SEQUENCES, SIDE, TOKENS, print, seconds,
};

struct Block {
    /// q, k, v, o, gate, up, down: (out, in).
    linears: Vec<Var>,
    norms: [Var; 2],
    cos: Tensor,
    sin: Tensor,
    mask: Tensor,
}

impl Block {
    fn new(device: &Device) -> Result<Self> {
        let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
        let shapes = [
            (q, HIDDEN),
            (kv, HIDDEN),
            (kv, HIDDEN),
            (HIDDEN, q),
            (INTERMEDIATE, HIDDEN),
            (INTERMEDIATE, HIDDEN),
            (HIDDEN, INTERMEDIATE),
        ];
        let linears = shapes.map(|(out, inp)| Var::randn(0f32, 0.02, (out, inp), device));
        let angle = |t: usize, i: usize| t as f32 / 1e5f32.powf(2.0 * i as f32 / HEAD_DIM as f32);
        let table = |f: fn(f32) -> f32| {
            let values: Vec<f32> = (0..TOKENS)
                .flat_map(|t| (0..HEAD_DIM / 2).map(move |i| f(angle(t, i))))
                .collect();
            Tensor::from_vec(values, (TOKENS, HEAD_DIM / 2), device)
        };
        let mask: Vec<f32> = (0..TOKENS * TOKENS)
            .map(|i| if i % TOKENS > i / TOKENS { f32::NEG_INFINITY } else { 0.0 })
            .collect();
        Ok(Self {
            linears: linears.into_iter().collect::<Result<_>>()?,
            norms: [
                Var::ones(HIDDEN, DType::F32, device)?,
                Var::ones(HIDDEN, DType::F32, device)?,
            ],
            cos: table(f32::cos)?,
            sin: table(f32::sin)?,
            mask: Tensor::from_vec(mask, (1, 1, TOKENS, TOKENS), device)?,
        })
    }

    fn linear(&self, i: usize, x: &Tensor) -> Result<Tensor> {
        x.broadcast_matmul(&self.linears[i].t()?)
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let heads = |t: Tensor, n: usize| t.reshape((SEQUENCES, TOKENS, n, HEAD_DIM))?.transpose(1, 2)?.contiguous();
        let group = |t: Tensor| {
            t.unsqueeze(2)?
                .expand((SEQUENCES, KV_HEADS, HEADS / KV_HEADS, TOKENS, HEAD_DIM))?
                .reshape((SEQUENCES, HEADS, TOKENS, HEAD_DIM))
        };
        let normed = rms_norm_slow(x, &self.norms[0], 1e-5)?;
        let q = rope_slow(&heads(self.linear(0, &normed)?, HEADS)?, &self.cos, &self.sin)?;
        let k = group(rope_slow(&heads(self.linear(1, &normed)?, KV_HEADS)?, &self.cos, &self.sin)?)?;
        let v = group(heads(self.linear(2, &normed)?, KV_HEADS)?)?;
        let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? / (HEAD_DIM as f64).sqrt())?;
        let weights = softmax(&scores.broadcast_add(&self.mask)?, D::Minus1)?;
        let mixed = weights.matmul(&v.contiguous()?)?.transpose(1, 2)?.reshape((SEQUENCES, TOKENS, HEADS * HEAD_DIM))?;
        let x = (x + self.linear(3, &mixed)?)?;
        let normed = rms_norm_slow(&x, &self.norms[1], 1e-5)?;
        let act = (silu(&self.linear(4, &normed)?)? * self.linear(5, &normed)?)?;
        x + self.linear(6, &act)?
    }
}

fn main() -> Result<()> {
    let device = Device::Cpu;
    let a = Tensor::randn(0f32, 1.0, (SIDE, SIDE), &device)?;
    let b = Tensor::randn(0f32, 1.0, (SIDE, SIDE), &device)?;
    let mut failed = None;
    let samples = seconds(|| failed = a.matmul(&b).err());
    let ms: Vec<f64> = samples.iter().map(|s| s * 1e3).collect();
    print("candle", "CPU", "gemm", GEMM_TEST, "", "ms", &ms);

    let block = Block::new(&device)?;
    let x = Var::randn(0f32, 1.0, (SEQUENCES, TOKENS, HIDDEN), &device)?;
    let samples = seconds(|| {
        let gradients = block.forward(&x).and_then(|y| y.sum_all()).and_then(|loss| loss.backward());
        match gradients {
            Ok(gradients) => assert!(block.linears.iter().all(|w| gradients.get(w).is_some())),
            Err(error) => failed = Some(error),
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    print("candle", "CPU", "smollm2-135m", BLOCK_TEST, "every weight", "s", &samples);
    Ok(())
}
