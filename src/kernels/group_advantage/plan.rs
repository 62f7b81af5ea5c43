//! Passes as the shaders take them: their parameters and tables.

use super::coefficients::{shape_cubics, spacing_factors};
use crate::advantage::pass::{Baseline, Pass, Prefix, Tilt};
use crate::gpu::params;

params! {
    pub(super) struct TailParams {
        pub(super) groups: u32,
        pub(super) m: u32,
        pub(super) prefixes: u32,
        pub(super) inverse_alpha: f32,
        pub(super) half_kappa: f32,
        pub(super) min_scale: f32,
        pub(super) inverse_m: f32,
    }

    pub(super) struct MeanParams {
        pub(super) groups: u32,
        pub(super) m: u32,
        pub(super) rule: u32,
        pub(super) eps: f32,
        pub(super) inverse_m: f32,
        pub(super) star: f32,
        pub(super) others: f32,
    }

    pub(super) struct SortParams {
        pub(super) groups: u32,
        pub(super) m: u32,
        pub(super) half: u32,
    }

    pub(super) struct CurveParams {
        pub(super) groups: u32,
        pub(super) m: u32,
        pub(super) baseline: u32,
        pub(super) place: u32,
        pub(super) part: f32,
        pub(super) scaled: u32,
        pub(super) eps: f32,
        pub(super) inverse_m: f32,
    }

    pub(super) struct CatParams {
        pub(super) groups: u32,
        pub(super) m: u32,
        pub(super) exponent: f32,
        pub(super) eps: f32,
        pub(super) inverse_m: f32,
    }

    pub(super) struct GpdParams {
        pub(super) groups: u32,
        pub(super) m: u32,
        pub(super) k: u32,
        pub(super) inverse_alpha: f32,
        pub(super) half_kappa: f32,
        pub(super) min_scale: f32,
        pub(super) weight: f32,
        pub(super) prior: f32,
        pub(super) inverse_m: f32,
        pub(super) inverse_k: f32,
    }

    pub(super) struct TiltParams {
        pub(super) groups: u32,
        pub(super) m: u32,
        pub(super) balanced: u32,
        pub(super) beta: f32,
        pub(super) cap: f32,
        pub(super) inverse_m: f32,
    }

    pub(super) struct TableParams {
        pub(super) groups: u32,
        pub(super) m: u32,
    }

    pub(super) struct ScaleParams {
        pub(super) rows: u32,
        pub(super) n: u32,
        pub(super) inverse_n: f32,
    }
}

/// The pass that ends a rule, with its parameters; `groups` is filled in when it is recorded.
#[derive(Debug, Clone, Copy)]
pub(super) enum Plan {
    Tail(TailParams),
    Mean(MeanParams),
    Curve(CurveParams),
    Cat(CatParams),
    Gpd(GpdParams),
    Tilt(TiltParams),
    Table(TableParams),
}

impl SortParams {
    pub(super) fn new(groups: u32, m: usize) -> Self {
        let half = (m.next_power_of_two() / 2) as u32;
        Self {
            groups,
            m: m as u32,
            half,
        }
    }
}

/// Values of `MeanParams::rule`, as the shader has them.
mod rule {
    pub(super) const CENTRE: u32 = 0;
    pub(super) const SCALED: u32 = 1;
    pub(super) const BEST: u32 = 2;
    pub(super) const SECOND: u32 = 3;
    pub(super) const SPLIT: u32 = 4;
    pub(super) const RATIO: u32 = 5;
}

impl Plan {
    /// The shader of a pass that fits groups of `m` ([`Pass::check`]), with its parameters.
    pub(super) fn new(pass: &Pass, m: usize) -> Self {
        let inverse_m = (1.0 / m as f64) as f32;
        let (groups, m32) = (0, m as u32);
        let mean = |rule: u32, eps: f64, star: f64, others: f64| {
            Self::Mean(MeanParams {
                groups,
                m: m32,
                rule,
                eps: eps as f32,
                inverse_m,
                star: star as f32,
                others: others as f32,
            })
        };
        match pass {
            Pass::Tail {
                alpha,
                kappa,
                min_scale,
                prefixes,
            } => Self::Tail(TailParams {
                groups,
                m: m32,
                prefixes: prefixes.len() as u32,
                inverse_alpha: (1.0 / alpha) as f32,
                half_kappa: (kappa / 2.0) as f32,
                min_scale: *min_scale as f32,
                inverse_m,
            }),
            Pass::Gpd {
                k,
                alpha,
                kappa,
                min_scale,
                weight,
                gaussian_skewness,
                ..
            } => Self::Gpd(GpdParams {
                groups,
                m: m32,
                k: *k as u32,
                inverse_alpha: (1.0 / alpha) as f32,
                half_kappa: (kappa / 2.0) as f32,
                min_scale: *min_scale as f32,
                weight: *weight as f32,
                prior: ((1.0 - weight) * gaussian_skewness) as f32,
                inverse_m,
                inverse_k: (1.0 / *k as f64) as f32,
            }),
            Pass::Centre { factor, eps: None } => mean(rule::CENTRE, 0.0, *factor, 0.0),
            Pass::Centre {
                factor,
                eps: Some(eps),
            } => mean(rule::SCALED, *eps, *factor, 0.0),
            Pass::Ratio => mean(rule::RATIO, 0.0, 1.0, 0.0),
            Pass::Tilt(tilt) => {
                let (balanced, beta, cap) = match tilt {
                    Tilt::Fixed { beta } => (0, *beta, None),
                    Tilt::Balanced { cap } => (1, 0.0, *cap),
                };
                Self::Tilt(TiltParams {
                    groups,
                    m: m32,
                    balanced,
                    beta: beta as f32,
                    cap: cap.map_or(f32::MAX, |cap| cap as f32),
                    inverse_m,
                })
            }
            Pass::Table(_) => Self::Table(TableParams { groups, m: m32 }),
            Pass::Best { second: false } => mean(rule::BEST, 0.0, 1.0, 0.0),
            Pass::Best { second: true } => mean(rule::SECOND, 0.0, 1.0, 0.0),
            Pass::Split { star, others, .. } => mean(rule::SPLIT, 0.0, *star, *others),
            Pass::Curve { from, eps, .. } => {
                let (baseline, place) = match from {
                    Baseline::Lowest => (0, 0.0),
                    Baseline::Mean => (1, 0.0),
                    Baseline::Place(at) => (2, *at),
                };
                Self::Curve(CurveParams {
                    groups,
                    m: m32,
                    baseline,
                    place: place.floor() as u32,
                    part: place.fract() as f32,
                    scaled: u32::from(eps.is_some()),
                    eps: eps.unwrap_or(0.0) as f32,
                    inverse_m,
                })
            }
            Pass::Cat { exponent, eps } => Self::Cat(CatParams {
                groups,
                m: m32,
                exponent: *exponent as f32,
                eps: *eps as f32,
                inverse_m,
            }),
        }
    }
}

/// What a pass reads besides rewards: the prefixes (size, k, weight, 1/k), the curve's steps (m), the tail's L-moment
/// factors (m, 4), or the advantages by the number of successes (m + 1, 2).
pub(super) fn table(pass: &Pass, m: usize) -> Vec<f32> {
    match pass {
        Pass::Gpd { k, .. } => {
            let factors = spacing_factors(m, *k);
            factors.iter().flatten().map(|f| *f as f32).collect()
        }
        Pass::Tail { prefixes, .. } => {
            let row = |p: &Prefix| [p.size as f64, p.k as f64, p.weight, 1.0 / p.k as f64].map(|x| x as f32);
            prefixes.iter().flat_map(row).collect()
        }
        Pass::Curve { steps, .. } => steps.iter().map(|s| *s as f32).collect(),
        Pass::Table(rows) => {
            let row = |(success, failure): &(f64, f64)| [*success as f32, *failure as f32];
            rows.iter().flat_map(row).collect()
        }
        Pass::Centre { .. }
        | Pass::Ratio
        | Pass::Tilt(_)
        | Pass::Best { .. }
        | Pass::Split { .. }
        | Pass::Cat { .. } => Vec::new(),
    }
}

/// TEA-GPD's κ_L as cubics between the shapes; empty for other passes.
pub(super) fn shapes(pass: &Pass) -> Vec<f32> {
    match pass {
        Pass::Gpd { curve, .. } => shape_cubics(curve).iter().flatten().map(|c| *c as f32).collect(),
        _ => Vec::new(),
    }
}
