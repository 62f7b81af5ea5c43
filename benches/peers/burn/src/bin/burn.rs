//! burn on its wgpu backend: a square product, and one Llama block forward and backward with every weight's gradient.

use burn::backend::wgpu::WgpuDevice;
use burn::backend::{Autodiff, Wgpu};
use burn::module::Module;
use burn::nn::{Linear, LinearConfig, RmsNorm, RmsNormConfig, RotaryEncoding, RotaryEncodingConfig};
use burn::tensor::activation::{silu, softmax};
use burn::tensor::backend::Backend;
use burn::tensor::{Bool, Distribution, Tensor};
use peers::{
    BLOCK_TEST, GEMM_TEST, HEAD_DIM, HEADS, HIDDEN, INTERMEDIATE, KV_HEADS, SEQUENCES, SIDE, TOKENS, print, seconds,
};

type Gpu = Wgpu<f32, i32>;
type Training = Autodiff<Gpu>;

/// A block of Llama: attention with grouped heads and rotary positions, SwiGLU, two norms, two residuals.
#[derive(Module, Debug)]
struct Block<B: Backend> {
    attention_norm: RmsNorm<B>,
    q: Linear<B>,
    k: Linear<B>,
    v: Linear<B>,
    o: Linear<B>,
    mlp_norm: RmsNorm<B>,
    gate: Linear<B>,
    up: Linear<B>,
    down: Linear<B>,
    rope: RotaryEncoding<B>,
}

impl<B: Backend> Block<B> {
    fn new(device: &B::Device) -> Self {
        let linear = |from, to| LinearConfig::new(from, to).with_bias(false).init(device);
        Self {
            attention_norm: RmsNormConfig::new(HIDDEN).init(device),
            q: linear(HIDDEN, HEADS * HEAD_DIM),
            k: linear(HIDDEN, KV_HEADS * HEAD_DIM),
            v: linear(HIDDEN, KV_HEADS * HEAD_DIM),
            o: linear(HEADS * HEAD_DIM, HIDDEN),
            mlp_norm: RmsNormConfig::new(HIDDEN).init(device),
            gate: linear(HIDDEN, INTERMEDIATE),
            up: linear(HIDDEN, INTERMEDIATE),
            down: linear(INTERMEDIATE, HIDDEN),
            rope: RotaryEncodingConfig::new(TOKENS, HEAD_DIM).init(device),
        }
    }

    fn forward(&self, x: Tensor<B, 3>, mask: &Tensor<B, 4, Bool>) -> Tensor<B, 3> {
        let heads = |t: Tensor<B, 3>, n: usize| t.reshape([SEQUENCES, TOKENS, n, HEAD_DIM]).swap_dims(1, 2);
        let normed = self.attention_norm.forward(x.clone());
        let q = self.rope.forward(heads(self.q.forward(normed.clone()), HEADS));
        let k = self.rope.forward(heads(self.k.forward(normed.clone()), KV_HEADS));
        let v = heads(self.v.forward(normed), KV_HEADS);
        let group = |t: Tensor<B, 4>| {
            t.reshape([SEQUENCES, KV_HEADS, 1, TOKENS, HEAD_DIM])
                .repeat_dim(2, HEADS / KV_HEADS)
                .reshape([SEQUENCES, HEADS, TOKENS, HEAD_DIM])
        };
        let scores = q.matmul(group(k).swap_dims(2, 3)) / (HEAD_DIM as f64).sqrt();
        let weights = softmax(scores.mask_fill(mask.clone(), f32::NEG_INFINITY), 3);
        let mixed = weights.matmul(group(v)).swap_dims(1, 2).reshape([SEQUENCES, TOKENS, HEADS * HEAD_DIM]);
        let x = x + self.o.forward(mixed);
        let normed = self.mlp_norm.forward(x.clone());
        let act = silu(self.gate.forward(normed.clone())) * self.up.forward(normed);
        x + self.down.forward(act)
    }
}

fn main() {
    let device = WgpuDevice::default();
    let wait = || {
        let _ = <Gpu as Backend>::sync(&device);
    };
    let random = || Tensor::<Gpu, 2>::random([SIDE, SIDE], Distribution::Uniform(-1.0, 1.0), &device);
    let (a, b) = (random(), random());
    let samples = seconds(|| {
        let c = a.clone().matmul(b.clone());
        wait();
        drop(c);
    });
    let ms: Vec<f64> = samples.iter().map(|s| s * 1e3).collect();
    print("burn", "wgpu", "gemm", GEMM_TEST, "", "ms", &ms);

    let block = Block::<Training>::new(&device);
    let x = Tensor::<Training, 3>::random([SEQUENCES, TOKENS, HIDDEN], Distribution::Uniform(-1.0, 1.0), &device)
        .require_grad();
    let later: Tensor<Training, 2, Bool> = Tensor::tril_mask([TOKENS, TOKENS], 0, &device);
    let mask = later.reshape([1, 1, TOKENS, TOKENS]).expand([SEQUENCES, HEADS, TOKENS, TOKENS]);
    let samples = seconds(|| {
        let gradients = block.forward(x.clone(), &mask).sum().backward();
        wait();
        let dx = x.grad(&gradients).is_some() && block.down.weight.grad(&gradients).is_some();
        assert!(dx, "gradients of the input and the weights");
    });
    print("burn", "wgpu", "smollm2-135m", BLOCK_TEST, "every weight", "s", &samples);
}
