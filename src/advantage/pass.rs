//! What a rule is on the GPU: one of a few group reductions with the numbers that depend on sizes alone, in float64.
//!
//! A rule's file names its pass and the coefficients; `kernels::group_advantage` runs it over many groups at once. The
//! rule's own float64 function is the twin that the reduction is tested against.

use crate::error::{Error, Result};

/// Largest group that the reductions take, and that settings may ask for.
pub const MAX_GROUP: usize = crate::config::range::MAX_GROUP as usize;

/// Range of ξ that TEA-GPD's fit may take, and the intervals its κ_L is given on: 128 a unit of ξ.
pub const SHAPES: std::ops::Range<f64> = -1.5..0.5;
/// Intervals of [`SHAPES`].
pub const SHAPE_INTERVALS: usize = 256;

/// The shapes ξ at which [`Pass::Gpd`] wants κ_L and its derivative, ascending: 257 from −1.5 to 0.5.
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

/// What a curve over sorted rewards is counted from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Baseline {
    /// Its lowest value.
    Lowest,
    /// Its mean.
    Mean,
    /// Its value at this place among the sorted rewards, 0 … m−1, between two of them in proportion.
    Place(f64),
}

/// How samples are weighed by `w = e^{β·x}`, and what becomes of the weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tilt {
    /// `A = (w / mean(w) − 1) / β`.
    Fixed {
        /// β.
        beta: f64,
    },
    /// `A_i = w_i / mean of the others' w − 1`, β such that the divergence of w from the uniform law is ln 2.
    Balanced {
        /// The largest advantage.
        cap: Option<f64>,
    },
}

/// A group reduction with its coefficients.
#[derive(Debug, Clone, PartialEq)]
pub enum Pass {
    /// `A = u − mean(u)`, `u_i = Σ_j weight_j·max(ψ_j(r_i), 0)` over the prefixes that hold i, with
    /// `ψ_j = (x + κ/(2s)·(x² − 2·e·x)) / α`, x the excess over the k-th best of the prefix, e and s the mean and the
    /// deviation of the k largest excesses.
    Tail {
        /// Tail share α.
        alpha: f64,
        /// κ(α, N).
        kappa: f64,
        /// Lower bound of the tail's standard deviation.
        min_scale: f64,
        /// The prefixes, at least one.
        prefixes: Vec<Prefix>,
    },
    /// As [`Pass::Tail`] over the whole group, with the score of a generalised Pareto tail whose shape ξ is fitted by
    /// L-moments; the Gaussian tail stands in where the fit is outside the curve or κ_L ≤ 0.
    Gpd {
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
    /// `A = factor·(r − mean(r))`, over `sd_pop(r) + eps` where that is given.
    Centre {
        /// The factor.
        factor: f64,
        /// Added to the standard deviation.
        eps: Option<f64>,
    },
    /// `A = (r − mean(r)) / mean(r)` for rewards of at least 0; 0 where the mean is.
    Ratio,
    /// Samples weighed by `e^{β·x}`, x the reward below the group's best.
    Tilt(Tilt),
    /// By the number of successes among rewards of 0 or 1: the advantage of a success and of a failure, for 0 … m.
    Table(Vec<(f64, f64)>),
    /// The first best sample's lead over the mean, or over the second best; 0 for the others.
    Best {
        /// Whether the lead is over the second best.
        second: bool,
    },
    /// The best of a selection set gets `star·(r − mean)`, samples outside it that are no better `others` times that.
    Split {
        /// Samples of the selection set, 1 ≤ selected < m, in every group.
        selected: usize,
        /// Factor of the best.
        star: f64,
        /// Factor of the others.
        others: f64,
    },
    /// A curve over the rewards in ascending order s, `v_i = v_{i−1} + steps[i]·(s_i − s_{i−1})`, counted from a
    /// baseline, over its deviation + eps where that is given. All steps are ≥ 0, so nothing cancels.
    Curve {
        /// steps (m); the first is 0.
        steps: Vec<f64>,
        /// What it is counted from.
        from: Baseline,
        /// Added to the standard deviation.
        eps: Option<f64>,
    },
    /// GRPO-Z weighted by `p^exponent`, p the share of the group strictly below, weights of mean 1.
    Cat {
        /// N_c − 1.
        exponent: f64,
        /// Added to the standard deviation.
        eps: f64,
    },
}

impl Pass {
    /// Whether it reads rewards themselves, not only their differences.
    pub fn absolute(&self) -> bool {
        matches!(self, Self::Ratio | Self::Table(_))
    }

    /// Whether it reads a selection set.
    pub fn selects(&self) -> bool {
        matches!(self, Self::Split { .. })
    }

    /// Whether it leaves each group's tail statistics.
    pub fn has_tail(&self) -> bool {
        matches!(self, Self::Tail { .. } | Self::Gpd { .. })
    }

    /// Refuses sizes that a reduction cannot take; the rules say it to the user first, but for the largest group.
    ///
    /// # Errors
    /// A user error for a group above [`MAX_GROUP`]; else a bug.
    pub fn check(&self, m: usize) -> Result<()> {
        if m > MAX_GROUP {
            return Err(Error::user(format!(
                "a group of {m} is too large for the GPU reductions, which take up to {MAX_GROUP} responses a prompt \
                 (--num-generations)"
            )));
        }
        let fits = m >= 2
            && match self {
                Self::Tail { prefixes, .. } => {
                    let inside = |p: &Prefix| p.k >= 1 && p.k <= p.size && p.size <= m;
                    !prefixes.is_empty() && prefixes.iter().all(inside)
                }
                Self::Gpd { k, curve, .. } => (1..=m).contains(k) && curve.len() == SHAPE_INTERVALS + 1,
                Self::Split { selected, .. } => (1..m).contains(selected),
                Self::Curve { steps, from, .. } => {
                    let inside = match from {
                        Baseline::Place(at) => (0.0..=(m - 1) as f64).contains(at),
                        Baseline::Lowest | Baseline::Mean => true,
                    };
                    steps.len() == m && inside
                }
                Self::Table(rows) => rows.len() == m + 1,
                Self::Centre { .. } | Self::Ratio | Self::Tilt(_) | Self::Best { .. } | Self::Cat { .. } => {
                    true
                }
            };
        if fits {
            return Ok(());
        }
        Err(Error::internal(format!(
            "group_advantage: {self:?} over groups of {m}"
        )))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn sizes_that_no_reduction_takes_are_refused() {
        let centre = Pass::Centre {
            factor: 1.0,
            eps: None,
        };
        assert!(centre.check(2).is_ok() && centre.check(MAX_GROUP).is_ok());
        assert_eq!(centre.check(MAX_GROUP + 1).unwrap_err().exit_code(), 2);
        let tail = |size, k| Pass::Tail {
            alpha: 0.2,
            kappa: 1.0,
            min_scale: 1e-8,
            prefixes: vec![Prefix { size, k, weight: 1.0 }],
        };
        let curve = |steps, from| Pass::Curve {
            steps: vec![0.0; steps],
            from,
            eps: None,
        };
        let split = Pass::Split {
            selected: 4,
            star: 1.0,
            others: 1.0,
        };
        for (pass, m) in [
            (centre, 1),
            (tail(6, 2), 4),
            (tail(4, 5), 4),
            (tail(4, 0), 4),
            (curve(3, Baseline::Mean), 4),
            (curve(4, Baseline::Place(3.5)), 4),
            (split, 4),
            (Pass::Table(vec![(0.0, 0.0); 4]), 4),
        ] {
            assert!(pass.check(m).is_err(), "{pass:?} m={m}");
        }
    }
}
