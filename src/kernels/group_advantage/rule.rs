//! Rules as the reductions take them, and the shaders' parameters.

use super::coefficients::{curve_steps, shape_cubics, spacing_factors};
use crate::error::{Error, Result};

/// Largest group.
pub const MAX_GROUP: usize = 4096;

/// Range of ξ that TEA-GPD's fit may take, and the intervals its κ_L is given on: 128 a unit of ξ.
pub(super) const SHAPES: std::ops::Range<f64> = -1.5..0.5;
pub(super) const SHAPE_INTERVALS: usize = 256;

/// The shapes ξ at which [`GroupRule::TeaGpd`] wants κ_L and its derivative, ascending: 257 from −1.5 to 0.5.
pub fn pareto_shapes() -> impl Iterator<Item = f64> {
    let step = (SHAPES.end - SHAPES.start) / SHAPE_INTERVALS as f64;
    (0..=SHAPE_INTERVALS).map(move |i| SHAPES.start + step * i as f64)
}

/// One prefix of a group with its tail.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prefix {
    /// Samples of the prefix, the group's first.
    pub size: usize,
    /// Tail samples, k ≤ size.
    pub k: usize,
    /// Factor of the prefix's scores: w_j·m/m_j.
    pub weight: f64,
}

/// A rule with the numbers that depend on sizes alone.
#[derive(Debug, Clone, PartialEq)]
pub enum GroupRule {
    /// TEA (one prefix: the group, weight 1) and Prefix-TEA (arXiv 2605.10716, §3): `A = u − mean(u)`,
    /// `u_i = Σ_j weight_j·max(ψ_j(r_i), 0)` over the prefixes that hold i, ψ_j on the prefix's top k.
    Tea {
        /// Tail share α.
        alpha: f64,
        /// κ(α, N).
        kappa: f64,
        /// Lower bound of the tail's standard deviation.
        min_scale: f64,
        /// The prefixes, at least one.
        prefixes: Vec<Prefix>,
    },
    /// TEA-GPD: as TEA over the whole group, with the score of a generalised Pareto tail whose shape ξ is fitted by
    /// L-moments; the Gaussian tail stands in where the fit is outside the curve or κ_L ≤ 0.
    TeaGpd {
        /// Tail samples k.
        k: usize,
        /// Tail share α.
        alpha: f64,
        /// κ(α, N) of the Gaussian tail.
        kappa: f64,
        /// Least spread: of λ₂, and of the Gaussian tail's standard deviation.
        min_scale: f64,
        /// w, the weight of the sample's L-skewness.
        weight: f64,
        /// The Gaussian tail's L-skewness.
        gaussian_skewness: f64,
        /// (κ_L(ξ), κ_L′(ξ)) at [`pareto_shapes`].
        curve: Vec<(f64, f64)>,
    },
    /// `A = r − mean(r)` (arXiv 2402.03300, unscaled).
    Grpo,
    /// `A = (r − mean(r)) / (sd_pop(r) + eps)`; equal rewards give 0.
    GrpoZ {
        /// Added to the standard deviation.
        eps: f64,
    },
    /// `r − mean(r)` for the first best sample, 0 for the others.
    BonMaxMean,
    /// `r − second largest` for the first best sample, 0 for the others.
    BonMaxSecond,
    /// Mean, over the subsets of size `subset` that hold a sample, of their maximum (arXiv 2510.23393), then as GRPO-Z.
    BonMean {
        /// Subset size K, 1 ≤ K ≤ m.
        subset: usize,
        /// Added to the standard deviation.
        eps: f64,
    },
    /// Mean, over the subsets of size `subset` that hold a sample, of what it adds to the maximum of the rest
    /// (arXiv 2505.15201).
    Pkpo {
        /// Subset size K, 2 ≤ K ≤ m.
        subset: usize,
    },
    /// BoN-RL (arXiv 2412.15287, Lemma 2): the best of the selection set gets `m·(r − mean)`, samples of the correction
    /// set that are no better get `m/(m − selected)·tilt` times that difference.
    Chow {
        /// Samples of the selection set, 1 ≤ selected < m, in every group.
        selected: usize,
        /// λ of `selected` draws.
        tilt: f64,
    },
    /// GRPO-Z weighted by `p^(bon − 1)`, p the share of the group strictly below, weights of mean 1 (arXiv 2604.24957).
    CatBon {
        /// N_c ≥ 1.
        bon: u64,
        /// Added to the standard deviation.
        eps: f64,
    },
    /// `E[max(r, M_{bon−1})] − E[M_bon]`, M the maximum of draws with replacement from the group.
    Oracle {
        /// Draws N ≥ 1.
        bon: u64,
    },
}

#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct TailParams {
    pub(super) groups: u32,
    pub(super) m: u32,
    pub(super) prefixes: u32,
    pub(super) inverse_alpha: f32,
    pub(super) half_kappa: f32,
    pub(super) min_scale: f32,
    pub(super) inverse_m: f32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct MeanParams {
    pub(super) groups: u32,
    pub(super) m: u32,
    pub(super) rule: u32,
    pub(super) eps: f32,
    pub(super) inverse_m: f32,
    pub(super) star: f32,
    pub(super) others: f32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct SortParams {
    pub(super) groups: u32,
    pub(super) m: u32,
    pub(super) half: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct CurveParams {
    pub(super) groups: u32,
    pub(super) m: u32,
    pub(super) centred: u32,
    pub(super) scaled: u32,
    pub(super) eps: f32,
    pub(super) inverse_m: f32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct CatParams {
    pub(super) groups: u32,
    pub(super) m: u32,
    pub(super) exponent: f32,
    pub(super) eps: f32,
    pub(super) inverse_m: f32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
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

/// The pass that ends a rule, with its parameters; `groups` is filled in when it is recorded.
#[derive(Debug, Clone, Copy)]
pub(super) enum Plan {
    Tail(TailParams),
    Mean(MeanParams),
    Curve(CurveParams),
    Cat(CatParams),
    Gpd(GpdParams),
}

impl MeanParams {
    const CHOW: u32 = 4;

    pub(super) fn needs_selection(&self) -> bool {
        self.rule == Self::CHOW
    }
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

impl GroupRule {
    /// TEA over whole groups of `m` with `k` tail samples.
    pub fn tea(m: usize, k: usize, alpha: f64, kappa: f64, min_scale: f64) -> Self {
        let whole = Prefix {
            size: m,
            k,
            weight: 1.0,
        };
        Self::Tea {
            alpha,
            kappa,
            min_scale,
            prefixes: vec![whole],
        }
    }

    /// Refuses sizes that a reduction cannot take; the rules in `advantage/` say it to the user first.
    pub(super) fn check(&self, m: usize) -> Result<()> {
        let fits = match self {
            Self::Tea { prefixes, .. } => {
                let inside = |p: &Prefix| p.k >= 1 && p.k <= p.size && p.size <= m;
                !prefixes.is_empty() && prefixes.iter().all(inside)
            }
            Self::TeaGpd { k, curve, .. } => (1..=m).contains(k) && curve.len() == SHAPE_INTERVALS + 1,
            Self::BonMean { subset, .. } => (1..=m).contains(subset),
            Self::Pkpo { subset } => (2..=m).contains(subset),
            Self::Chow { selected, .. } => (1..m).contains(selected),
            Self::CatBon { bon, .. } | Self::Oracle { bon } => *bon >= 1,
            Self::Grpo | Self::GrpoZ { .. } | Self::BonMaxMean | Self::BonMaxSecond => true,
        };
        if fits && (2..=MAX_GROUP).contains(&m) {
            return Ok(());
        }
        Err(Error::internal(format!(
            "group_advantage: {self:?} over groups of {m} (2 to {MAX_GROUP} can be reduced)"
        )))
    }

    /// The last pass and its parameters.
    pub(super) fn plan(&self, m: usize) -> Result<Plan> {
        self.check(m)?;
        let inverse_m = (1.0 / m as f64) as f32;
        let mean = |rule: u32, eps: f64, star: f64, others: f64| {
            Plan::Mean(MeanParams {
                groups: 0,
                m: m as u32,
                rule,
                eps: eps as f32,
                inverse_m,
                star: star as f32,
                others: others as f32,
            })
        };
        let curve = |centred: bool, scaled: bool, eps: f64| {
            Plan::Curve(CurveParams {
                groups: 0,
                m: m as u32,
                centred: u32::from(centred),
                scaled: u32::from(scaled),
                eps: eps as f32,
                inverse_m,
            })
        };
        Ok(match self {
            Self::Tea {
                alpha,
                kappa,
                min_scale,
                prefixes,
            } => Plan::Tail(TailParams {
                groups: 0,
                m: m as u32,
                prefixes: prefixes.len() as u32,
                inverse_alpha: (1.0 / alpha) as f32,
                half_kappa: (kappa / 2.0) as f32,
                min_scale: *min_scale as f32,
                inverse_m,
            }),
            Self::TeaGpd {
                k,
                alpha,
                kappa,
                min_scale,
                weight,
                gaussian_skewness,
                ..
            } => Plan::Gpd(GpdParams {
                groups: 0,
                m: m as u32,
                k: *k as u32,
                inverse_alpha: (1.0 / alpha) as f32,
                half_kappa: (kappa / 2.0) as f32,
                min_scale: *min_scale as f32,
                weight: *weight as f32,
                prior: ((1.0 - weight) * gaussian_skewness) as f32,
                inverse_m,
                inverse_k: (1.0 / *k as f64) as f32,
            }),
            Self::Grpo => mean(0, 0.0, 0.0, 0.0),
            Self::GrpoZ { eps } => mean(1, *eps, 0.0, 0.0),
            Self::BonMaxMean => mean(2, 0.0, 1.0, 0.0),
            Self::BonMaxSecond => mean(3, 0.0, 1.0, 0.0),
            Self::Chow { selected, tilt } => {
                let all = m as f64;
                mean(MeanParams::CHOW, 0.0, all, all / (m - selected) as f64 * tilt)
            }
            Self::BonMean { eps, .. } => curve(true, true, *eps),
            Self::Pkpo { .. } => curve(false, false, 0.0),
            Self::Oracle { .. } => curve(true, false, 0.0),
            Self::CatBon { bon, eps } => Plan::Cat(CatParams {
                groups: 0,
                m: m as u32,
                exponent: (*bon - 1) as f32,
                eps: *eps as f32,
                inverse_m,
            }),
        })
    }

    /// What the last pass reads besides rewards: the prefixes (size, k, weight, 1/k), the curve's steps (m), or the
    /// tail's L-moment factors (m, 4).
    pub(super) fn table(&self, m: usize) -> Vec<f32> {
        if let Self::TeaGpd { k, .. } = self {
            let factors = spacing_factors(m, *k);
            return factors.iter().flatten().map(|f| *f as f32).collect();
        }
        if let Self::Tea { prefixes, .. } = self {
            let row = |p: &Prefix| {
                [
                    p.size as f32,
                    p.k as f32,
                    p.weight as f32,
                    (1.0 / p.k as f64) as f32,
                ]
            };
            return prefixes.iter().flat_map(row).collect();
        }
        curve_steps(self, m)
            .map(|steps| steps.iter().map(|s| *s as f32).collect())
            .unwrap_or_default()
    }

    /// TEA-GPD's κ_L as cubics between the shapes; empty for other rules.
    pub(super) fn shapes(&self) -> Vec<f32> {
        let Self::TeaGpd { curve, .. } = self else {
            return Vec::new();
        };
        let cubics = shape_cubics(curve);
        cubics.iter().flatten().map(|c| *c as f32).collect()
    }
}
