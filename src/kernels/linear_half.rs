//! What the cooperative products make of their operands: twins of the rounding in `shared/coop_tile.wgsl`.

use half::f16;

/// Rounded to f16; finite values beyond its range become its largest.
fn to_half(v: f64) -> f64 {
    f64::from(f16::from_f32((v as f32).clamp(-65504.0, 65504.0)))
}

/// As the kernels take an operand where `wanted`, else unchanged.
pub(super) fn half(values: Vec<f64>, wanted: bool) -> Vec<f64> {
    let round = |v| if wanted { to_half(v) } else { v };
    values.into_iter().map(round).collect()
}

/// As [`half`] after each row was scaled by a power of two that brings its largest value to 2¹⁴ … 2¹⁵, and scaled back.
pub(super) fn half_rows(mut values: Vec<f64>, cols: usize, wanted: bool) -> Vec<f64> {
    if wanted {
        for row in values.chunks_exact_mut(cols) {
            let peak = row.iter().fold(0.0f64, |a, v| a.max(v.abs()));
            let exponent = if peak > 0.0 { peak.log2().floor() } else { 0.0 };
            let scale = 2.0f64.powi(14 - exponent.clamp(-100.0, 100.0) as i32);
            row.iter_mut().for_each(|v| *v = to_half(*v * scale) / scale);
        }
    }
    values
}

/// As [`half_rows`] by columns.
pub(super) fn half_columns(values: Vec<f64>, cols: usize, wanted: bool) -> Vec<f64> {
    let rows = values.len() / cols;
    let turned = |v: &[f64], rows: usize, cols: usize| -> Vec<f64> {
        let places = (0..cols).flat_map(|c| (0..rows).map(move |r| r * cols + c));
        places.map(|i| v[i]).collect()
    };
    let columns = half_rows(turned(&values, rows, cols), rows, wanted);
    turned(&columns, cols, rows)
}
