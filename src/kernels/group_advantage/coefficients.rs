//! Steps of the rank rules' curves, in float64.

use super::GroupRule;

/// Steps (m) of the rule's curve over ascending rewards s: `v_i = v_{i−1} + steps[i]·(s_i − s_{i−1})`, `steps[0] = 0`;
/// `None` for rules that are no such curve.
///
/// With l rewards below a gap (1 ≤ l < m), the share of the sets drawn that notice the gap:
/// - BoN mean (arXiv 2510.23393): a subset of K that holds a given reward below has all other members below,
///   `C(l−1, K−1)/C(m−1, K−1)`;
/// - PKPO (arXiv 2505.15201): the K − 1 others are all below, `C(l, K−1)/C(m−1, K−1)`;
/// - oracle: N − 1 draws with replacement are all below, `(l/m)^(N−1)`.
///
/// Summing by gaps instead of by rewards leaves positive terms only.
pub fn curve_steps(rule: &GroupRule, m: usize) -> Option<Vec<f64>> {
    let mut steps = match rule {
        GroupRule::BonMean { subset, .. } => {
            let shares = subset_shares(m, *subset);
            let mut steps = vec![0.0; m];
            steps[1..].copy_from_slice(&shares[..m - 1]);
            steps
        }
        GroupRule::Pkpo { subset } => subset_shares(m, *subset),
        GroupRule::Oracle { bon } => (0..m)
            .map(|l| libm::pow(l as f64 / m as f64, (*bon - 1) as f64))
            .collect(),
        _ => return None,
    };
    steps[0] = 0.0;
    Some(steps)
}

/// `C(n, K−1) / C(m−1, K−1)` for n = 0 … m−1, by the ratio of neighbours: at most m roundings, 1e-12 relative for
/// m = 4096. Shares below the smallest float64 are 0.
fn subset_shares(m: usize, subset: usize) -> Vec<f64> {
    let mut shares = vec![0.0; m];
    shares[m - 1] = 1.0;
    for n in (1..m).rev() {
        let left = (n + 1).saturating_sub(subset) as f64;
        shares[n - 1] = shares[n] * left / n as f64;
    }
    shares
}
