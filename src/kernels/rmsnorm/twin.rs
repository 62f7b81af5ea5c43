//! RMSNorm in float64.

/// Returns y (m, c) and rstd (m).
pub fn forward(x: &[f64], gamma: &[f64], m: usize, c: usize, eps: f64) -> (Vec<f64>, Vec<f64>) {
    let mut y = vec![0.0; m * c];
    let mut rstd = vec![0.0; m];
    for i in 0..m {
        let row = &x[i * c..(i + 1) * c];
        rstd[i] = 1.0 / (row.iter().map(|v| v * v).sum::<f64>() / c as f64 + eps).sqrt();
        for k in 0..c {
            y[i * c + k] = row[k] * rstd[i] * gamma[k];
        }
    }
    (y, rstd)
}

/// Returns dx (m, c).
pub fn backward(dy: &[f64], x: &[f64], gamma: &[f64], rstd: &[f64], m: usize, c: usize) -> Vec<f64> {
    let mut dx = vec![0.0; m * c];
    for (i, r) in rstd.iter().enumerate().take(m) {
        let at = |k: usize| i * c + k;
        let dot: f64 = (0..c).map(|k| dy[at(k)] * gamma[k] * x[at(k)]).sum();
        let along = dot * r.powi(3) / c as f64;
        for k in 0..c {
            dx[at(k)] = r * dy[at(k)] * gamma[k] - x[at(k)] * along;
        }
    }
    dx
}

/// Returns the sum that is added to dgamma (c).
pub fn gamma_gradient(dy: &[f64], x: &[f64], rstd: &[f64], m: usize, c: usize) -> Vec<f64> {
    (0..c)
        .map(|k| (0..m).map(|i| dy[i * c + k] * x[i * c + k] * rstd[i]).sum())
        .collect()
}
