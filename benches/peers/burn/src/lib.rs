//! What both peers share: the sizes of the work, repetitions, and rows in the form of `tea-wgpu bench … -o jsonl`.

use std::time::Instant;

/// Samples of each measurement.
pub const REPETITIONS: usize = 5;
/// Side of the square product.
pub const SIDE: usize = 1024;
/// Sequences and their tokens.
pub const SEQUENCES: usize = 8;
pub const TOKENS: usize = 128;
/// SmolLM2-135M's block.
pub const HIDDEN: usize = 576;
pub const INTERMEDIATE: usize = 1536;
pub const HEADS: usize = 9;
pub const KV_HEADS: usize = 3;
pub const HEAD_DIM: usize = 64;

/// Names that pair a row with this program's own.
pub const BLOCK_TEST: &str = "block forward+backward 8×128";
pub const GEMM_TEST: &str = "linear_forward training 1024×1024×1024 square";

/// Seconds of each of [`REPETITIONS`] runs, after two that warm up (autotuning, pipelines).
pub fn seconds(mut work: impl FnMut()) -> Vec<f64> {
    work();
    work();
    (0..REPETITIONS)
        .map(|_| {
            let begun = Instant::now();
            work();
            begun.elapsed().as_secs_f64()
        })
        .collect()
}

/// Prints one row.
pub fn print(peer: &str, backend: &str, model: &str, test: &str, variant: &str, unit: &str, samples: &[f64]) {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = samples.len();
    let mean = samples.iter().sum::<f64>() / n as f64;
    let squares: f64 = samples.iter().map(|s| (s - mean).powi(2)).sum();
    let deviation = if n > 1 { (squares / (n - 1) as f64).sqrt() } else { 0.0 };
    let row = serde_json::json!({
        "peer": peer,
        "backend": backend,
        "model": model,
        "dtype": "f32",
        "test": test,
        "variant": variant,
        "value": sorted[n / 2],
        "deviation": deviation,
        "unit": unit,
        "higher_is_better": false,
        "samples": samples,
    });
    println!("{row}");
}
