//! Float64 twin of the group reductions.

use super::coefficients::{curve_steps, shape_cubics};
use super::rule::{SHAPE_INTERVALS, SHAPES};
use super::{GAUSSIAN_TAIL, GroupRule, NO_SIGNAL, Prefix};

/// Float64 twin of [`GroupReducer::record`](super::GroupReducer::record) for one group: advantages and flags
/// ([`NO_SIGNAL`], [`GAUSSIAN_TAIL`]). `selection` is Chow's split, empty for other rules.
pub fn twin(rule: &GroupRule, rewards: &[f64], selection: &[bool]) -> (Vec<f64>, u32) {
    let top = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let d: Vec<f64> = rewards.iter().map(|r| r - top).collect();
    let mut flags = 0;
    let advantages = match rule {
        GroupRule::TeaGpd { .. } => {
            let fitted = gpd_scores(rule, &d);
            flags = if fitted.is_some() { 0 } else { GAUSSIAN_TAIL };
            centred(fitted.unwrap_or_else(|| gaussian_scores(rule, &d)))
        }
        _ if d.iter().all(|x| *x == 0.0) => vec![0.0; d.len()],
        GroupRule::Tea {
            alpha,
            kappa,
            min_scale,
            prefixes,
        } => {
            let mut u = vec![0.0; d.len()];
            for prefix in prefixes {
                add_scores(&mut u, &d, prefix, *alpha, *kappa, *min_scale);
            }
            if u.iter().any(|x| *x != 0.0) {
                centre(&mut u);
            }
            u
        }
        GroupRule::Grpo => centred(d),
        GroupRule::GrpoZ { eps } => scaled(d, *eps),
        GroupRule::BonMaxMean => star(&d, |_| mean(&d)),
        GroupRule::BonMaxSecond => star(&d, |i| {
            let others = d.iter().enumerate().filter(|(j, _)| *j != i);
            others.map(|(_, x)| *x).fold(f64::NEG_INFINITY, f64::max)
        }),
        GroupRule::BonMean { eps, .. } => scaled(curve(rule, &d), *eps),
        GroupRule::Pkpo { .. } => curve(rule, &d),
        GroupRule::Oracle { .. } => centred(curve(rule, &d)),
        GroupRule::Chow { tilt, .. } => chow(&d, selection, *tilt),
        GroupRule::CatBon { bon, eps } => cat_bon(d, *bon, *eps),
    };
    if advantages.iter().all(|a| *a == 0.0) {
        flags |= NO_SIGNAL;
    }
    (advantages, flags)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn centre(values: &mut [f64]) {
    let mean = mean(values);
    values.iter_mut().for_each(|v| *v -= mean);
}

fn centred(mut values: Vec<f64>) -> Vec<f64> {
    centre(&mut values);
    values
}

/// GRPO-Z of `values`; equal values give 0.
fn scaled(values: Vec<f64>, eps: f64) -> Vec<f64> {
    if values.iter().all(|v| *v == values[0]) {
        return vec![0.0; values.len()];
    }
    let mut out = centred(values);
    let scale = libm::sqrt(out.iter().map(|a| a * a).sum::<f64>() / out.len() as f64) + eps;
    out.iter_mut().for_each(|a| *a /= scale);
    out
}

fn ascending(d: &[f64]) -> Vec<f64> {
    let mut sorted = d.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn below(sorted: &[f64], value: f64) -> usize {
    sorted.partition_point(|s| *s < value)
}

fn add_scores(u: &mut [f64], d: &[f64], prefix: &Prefix, alpha: f64, kappa: f64, min_scale: f64) {
    let mut order: Vec<usize> = (0..prefix.size).collect();
    order.sort_by(|a, b| d[*b].total_cmp(&d[*a])); // stable: ties by the lowest index
    order.truncate(prefix.k);
    let (q, k) = (d[order[prefix.k - 1]], prefix.k as f64);
    let mean = order.iter().map(|i| d[*i]).sum::<f64>() / k;
    let variance = order.iter().map(|i| (d[*i] - mean) * (d[*i] - mean)).sum::<f64>() / k;
    let scale = libm::sqrt(variance).max(min_scale);
    for i in order {
        let quadratic = (d[i] - mean) * (d[i] - mean) - (q - mean) * (q - mean);
        let psi = ((d[i] - q) + kappa / (2.0 * scale) * quadratic) / alpha;
        u[i] += prefix.weight * psi.max(0.0);
    }
}

/// TEA's scores under TEA-GPD's settings.
fn gaussian_scores(rule: &GroupRule, d: &[f64]) -> Vec<f64> {
    let mut u = vec![0.0; d.len()];
    if let GroupRule::TeaGpd {
        k,
        alpha,
        kappa,
        min_scale,
        ..
    } = rule
        && d.iter().any(|x| *x != 0.0)
    {
        let whole = Prefix {
            size: d.len(),
            k: *k,
            weight: 1.0,
        };
        add_scores(&mut u, d, &whole, *alpha, *kappa, *min_scale);
    }
    u
}

/// Scores under a generalised Pareto tail; `None` where the Gaussian tail stands in.
fn gpd_scores(rule: &GroupRule, d: &[f64]) -> Option<Vec<f64>> {
    let GroupRule::TeaGpd {
        k,
        alpha,
        min_scale,
        weight,
        gaussian_skewness,
        curve,
        ..
    } = rule
    else {
        return None;
    };
    let mut order: Vec<usize> = (0..d.len()).collect();
    order.sort_by(|a, b| d[*b].total_cmp(&d[*a])); // stable, from the largest down
    let tail: Vec<f64> = order[..*k].iter().map(|i| d[*i]).collect();
    let n = tail.len() - 1;
    if n < 3 {
        return None;
    }
    // Unbiased probability-weighted moments: v is the share of the others above, v₂ that of the pairs of others.
    let v = |i: usize| i as f64 / (n - 1) as f64;
    let v2 = |i: usize| v(i) * (i as f64 - 1.0) / (n - 2) as f64;
    let moment = |w: &dyn Fn(usize) -> f64| (0..n).map(|i| tail[i] * w(i)).sum::<f64>() / n as f64;
    let (b0, b1, b2) = (moment(&|_| 1.0), moment(&v), moment(&v2));
    let (second, third) = (b0 - 2.0 * b1, b0 - 6.0 * b1 + 6.0 * b2);
    if second <= *min_scale {
        return None;
    }
    let raw = third / second;
    let skewness = weight * raw + (1.0 - weight) * gaussian_skewness;
    let shape = (3.0 * skewness - 1.0) / (1.0 + skewness);
    if !SHAPES.contains(&shape) {
        return None;
    }
    let per_unit = SHAPE_INTERVALS as f64 / (SHAPES.end - SHAPES.start);
    let at = (shape - SHAPES.start) * per_unit;
    let cell = (at as usize).min(SHAPE_INTERVALS - 1);
    let (t, [c0, c1, c2, c3]) = (at - cell as f64, shape_cubics(curve)[cell]);
    let kappa = c0 + t * (c1 + t * (c2 + t * c3));
    let slope = (c1 + t * (2.0 * c2 + t * 3.0 * c3)) * per_unit;
    if kappa <= 0.0 {
        return None;
    }
    let quadratic = weight * slope * 4.0 / ((1.0 + skewness) * (1.0 + skewness));
    let linear = kappa - quadratic * raw;
    let (mut u, mut psi) = (vec![0.0; d.len()], 0.0);
    for i in (0..n).rev() {
        let bend = linear * (1.0 - 2.0 * v(i)) + quadratic * (6.0 * v2(i) - 6.0 * v(i) + 1.0);
        psi += (tail[i] - tail[i + 1]) * (1.0 + bend);
        u[order[i]] = (psi / alpha).max(0.0);
    }
    Some(u)
}

/// The first best sample's lead over `baseline(its index)`, 0 for the others.
fn star(d: &[f64], baseline: impl Fn(usize) -> f64) -> Vec<f64> {
    let mut out = vec![0.0; d.len()];
    if let Some(i) = d.iter().position(|x| *x == 0.0) {
        out[i] = -baseline(i);
    }
    out
}

fn curve(rule: &GroupRule, d: &[f64]) -> Vec<f64> {
    let sorted = ascending(d);
    let Some(steps) = curve_steps(rule, d.len()) else {
        return vec![0.0; d.len()];
    };
    let mut v = vec![0.0; d.len()];
    for i in 1..d.len() {
        v[i] = v[i - 1] + steps[i] * (sorted[i] - sorted[i - 1]);
    }
    d.iter().map(|x| v[below(&sorted, *x)]).collect()
}

fn chow(d: &[f64], selection: &[bool], tilt: f64) -> Vec<f64> {
    let chosen = |i: &usize| selection[*i];
    let best = (0..d.len()).filter(chosen).map(|i| d[i]).fold(f64::MIN, f64::max);
    let star = (0..d.len()).filter(chosen).find(|i| d[*i] == best);
    let lead = best - mean(d);
    let others = selection.iter().filter(|s| !**s).count() as f64;
    let all = d.len() as f64;
    let advantage = |i: usize| match (Some(i) == star, selection[i]) {
        (true, _) => all * lead,
        (false, false) if d[i] <= best => all / others * tilt * lead,
        _ => 0.0,
    };
    (0..d.len()).map(advantage).collect()
}

fn cat_bon(d: Vec<f64>, bon: u64, eps: f64) -> Vec<f64> {
    let sorted = ascending(&d);
    let most = below(&sorted, 0.0) as f64;
    // Relative to the largest weight, so that all-but-equal groups do not underflow to no signal.
    let weights: Vec<f64> = d
        .iter()
        .map(|x| libm::pow(below(&sorted, *x) as f64 / most, (bon - 1) as f64))
        .collect();
    let mean_weight = mean(&weights);
    let z = scaled(d, eps);
    z.iter().zip(&weights).map(|(z, w)| z * w / mean_weight).collect()
}
