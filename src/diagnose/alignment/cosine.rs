//! Cosines between a rule's update and the oracle's, from Gram matrices alone.

use rand::seq::SliceRandom;
use serde::Serialize;

use super::gram::Gram;
use crate::advantage::{GroupContext, OracleParams, Rule};
use crate::error::{Context, Error, Result};
use crate::eval::{Bootstrap, Interval};
use crate::rng::{Stream, seed_for};

/// Purpose of the stream that draws subsets (see [`Stream::new`]).
const SUBSETS: u32 = 0x0a11_6e00;

/// The "step" that keys a rule's own random numbers.
const GROUPS: u64 = 0x0a11_6e01;

/// The oracle over a pool.
pub(super) fn oracle(bon: u64) -> Rule {
    Rule::Oracle(OracleParams { bon })
}

/// One prompt's pool.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// Rewards (n,).
    pub rewards: Vec<f64>,
    /// Inner products of the gradients of the same responses.
    pub gram: Gram,
}

/// What is compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AlignmentSettings {
    /// The rules, with their settings.
    pub rules: Vec<Rule>,
    /// Group sizes m.
    pub sizes: Vec<usize>,
    /// Random subsets a prompt and size.
    pub seeds: usize,
    /// Seed of the subsets.
    pub seed: u64,
    /// N of the oracle.
    pub bon: u64,
    /// The rule that differences are taken to, by name.
    pub baseline: Option<String>,
}

/// One rule at one group size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cell {
    /// The rule's name.
    pub rule: String,
    /// m.
    pub m: usize,
    /// Mean cosine: over the seeds with a signal, then over prompts. `None` where no prompt has one.
    pub cosine: Option<f64>,
    /// Standard error of the mean over prompts (sample standard deviation / √P). `None` below two prompts.
    pub standard_error: Option<f64>,
    /// The same mean with 0 for groups without a signal, over all prompts: rules that skip different groups are compared on
    /// the same ones.
    pub cosine_with_zeros: Option<f64>,
    /// Its standard error over prompts.
    pub standard_error_with_zeros: Option<f64>,
    /// Share of groups whose advantages, or whose update, are all zero.
    pub no_signal: f64,
    /// Mean cosine of each prompt over its seeds with a signal.
    pub per_prompt: Vec<Option<f64>>,
    /// The same with 0 for seeds without a signal.
    pub per_prompt_with_zeros: Vec<f64>,
    /// Why there is nothing: the rule does not work at this m, or on these rewards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A rule against the baseline at one group size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The rule's name.
    pub rule: String,
    /// m.
    pub m: usize,
    /// Rule − baseline over each one's groups with a signal, mean over the prompts where both have one, with its paired
    /// bootstrap interval. `None` where there is no such prompt.
    #[serde(flatten)]
    pub interval: Option<Interval>,
    /// Prompts where both have a signal.
    pub prompts: usize,
    /// Rule − baseline with 0 for groups without a signal, over all prompts.
    pub with_zeros: Interval,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alignment {
    /// The settings.
    pub settings: AlignmentSettings,
    /// Prompts in all.
    pub prompts: usize,
    /// Prompts left out because the oracle's update is zero there (all rewards equal, say).
    pub no_oracle: Vec<usize>,
    /// Distinct responses a prompt, mean over prompts.
    pub distinct_responses: f64,
    /// By rule, then by m.
    pub cells: Vec<Cell>,
    /// Against the baseline, in the same order.
    pub differences: Vec<Difference>,
}

/// The oracle's side of one prompt.
struct Target<'a> {
    prompt: usize,
    pool: &'a Pool,
    /// K o, over distinct responses.
    image: Vec<f64>,
    /// √(oᵀ K o).
    norm: f64,
}

impl AlignmentSettings {
    fn check(&self, pools: &[Pool]) -> Result<()> {
        let n = pools.iter().map(|p| p.rewards.len()).min().unwrap_or(0);
        if let Some(m) = self.sizes.iter().find(|m| **m < 2 || **m > n) {
            return Err(Error::user(format!(
                "a group of {m} cannot be drawn from a pool of {n} responses: --group-sizes must be from 2 to --samples"
            )));
        }
        for (what, empty) in [
            ("--rules", self.rules.is_empty()),
            ("--group-sizes", self.sizes.is_empty()),
            ("--seeds", self.seeds == 0),
            ("prompts", pools.is_empty()),
        ] {
            if empty {
                return Err(Error::user(format!("{what}: give at least one")));
            }
        }
        Ok(())
    }
}

/// Cosine of the updates with weights a and o over distinct responses, where `image` is K o and `norm` √(oᵀKo);
/// `None` where the update of a is zero.
pub(super) fn cosine(gram: &Gram, a: &[f64], image: &[f64], norm: f64) -> Option<f64> {
    let square: f64 = gram.times(a).iter().zip(a).map(|(x, y)| x * y).sum();
    let scale: f64 = a
        .iter()
        .enumerate()
        .map(|(i, w)| w * w * f64::from(gram.values[i * gram.distinct + i]))
        .sum();
    // Below this the update is the rounding of products that cancel.
    if square <= 1e-10 * scale || scale == 0.0 {
        return None;
    }
    let inner: f64 = a.iter().zip(image).map(|(x, y)| x * y).sum();
    Some(inner / (square.sqrt() * norm))
}

impl<'a> Target<'a> {
    fn new(prompt: usize, pool: &'a Pool, bon: u64) -> Result<Option<Self>> {
        let weights = oracle(bon)
            .advantages(&pool.rewards)
            .context(format!("prompt {prompt}"))?;
        let o = pool.gram.collect(&weights);
        let image = pool.gram.times(&o);
        let square: f64 = image.iter().zip(&o).map(|(x, y)| x * y).sum();
        let target = Self {
            prompt,
            pool,
            image,
            norm: square.max(0.0).sqrt(),
        };
        let some = cosine(&pool.gram, &o, &target.image, target.norm).is_some();
        Ok(some.then_some(target))
    }

    /// The cosine of one rule on the first m responses of a permutation.
    fn cosine(&self, rule: &Rule, order: &[usize], seed: u64) -> Result<Option<f64>> {
        let rewards: Vec<f64> = order.iter().map(|i| self.pool.rewards[*i]).collect();
        let context = GroupContext::at(seed, GROUPS, self.prompt as u64);
        let group = rule.group_with(&rewards, &context)?.advantages;
        let mut weights = vec![0.0; self.pool.rewards.len()];
        for (i, a) in order.iter().zip(group) {
            weights[*i] = a;
        }
        let a = self.pool.gram.collect(&weights);
        Ok(cosine(&self.pool.gram, &a, &self.image, self.norm))
    }
}

/// A permutation of the pool; its first m are the group of size m, so that groups of one seed are nested.
fn permutation(n: usize, prompt: usize, settings: &AlignmentSettings, seed: usize) -> Vec<usize> {
    let key = seed_for(settings.seed, 0, prompt as u64, seed as u64);
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut Stream::new(key, SUBSETS));
    order
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let all: Vec<f64> = values.collect();
    (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
}

/// Refuses a rule that does not work at a size, or on the rewards of a pool.
fn unfit(targets: &[Target<'_>], rule: &Rule, m: usize) -> Result<()> {
    rule.validate(m)?;
    let mut pools = targets.iter();
    pools.try_for_each(|t| {
        rule.check(&t.pool.rewards)
            .context(format!("prompt {}", t.prompt))
    })
}

/// One cell; every rule and size sees the same subsets.
fn cell(targets: &[Target<'_>], rule: &Rule, m: usize, settings: &AlignmentSettings) -> Result<Cell> {
    let mut out = Cell {
        rule: rule.name().to_string(),
        m,
        cosine: None,
        standard_error: None,
        cosine_with_zeros: None,
        standard_error_with_zeros: None,
        no_signal: 0.0,
        per_prompt: Vec::new(),
        per_prompt_with_zeros: Vec::new(),
        error: unfit(targets, rule, m).err().map(|e| e.to_string()),
    };
    if out.error.is_some() {
        return Ok(out);
    }
    for target in targets {
        let mut cosines = Vec::new();
        for s in 0..settings.seeds {
            let order = permutation(target.pool.rewards.len(), target.prompt, settings, s);
            let draw = settings.seed.wrapping_add(s as u64);
            cosines.extend(
                target
                    .cosine(rule, &order[..m], draw)
                    .context(format!("prompt {}", target.prompt))?,
            );
        }
        out.per_prompt_with_zeros
            .push(cosines.iter().sum::<f64>() / settings.seeds as f64);
        out.no_signal += (settings.seeds - cosines.len()) as f64;
        out.per_prompt.push(mean(cosines.into_iter()));
    }
    out.no_signal /= (targets.len() * settings.seeds) as f64;
    let signalled: Vec<f64> = out.per_prompt.iter().flatten().copied().collect();
    (out.cosine, out.standard_error) = mean_and_error(&signalled);
    (out.cosine_with_zeros, out.standard_error_with_zeros) = mean_and_error(&out.per_prompt_with_zeros);
    Ok(out)
}

/// The mean and, from two values on, its standard error.
fn mean_and_error(values: &[f64]) -> (Option<f64>, Option<f64>) {
    let n = values.len() as f64;
    let centre = mean(values.iter().copied());
    let error = centre.filter(|_| values.len() >= 2).map(|c| {
        let square: f64 = values.iter().map(|x| (x - c).powi(2)).sum();
        (square / (n - 1.0) / n).sqrt()
    });
    (centre, error)
}

/// Cosines of every rule at every size, with differences to the baseline where it is among the rules.
///
/// # Errors
/// A user error: a size outside 2 … n, nothing to compare, a reward that is not finite, N < 2, no prompt where the oracle
/// has a direction, or no size at which any rule works.
pub fn align(pools: &[Pool], settings: &AlignmentSettings) -> Result<Alignment> {
    settings.check(pools)?;
    let (mut targets, mut no_oracle) = (Vec::new(), Vec::new());
    for (p, pool) in pools.iter().enumerate() {
        match Target::new(p, pool, settings.bon)? {
            Some(target) => targets.push(target),
            None => no_oracle.push(p),
        }
    }
    if targets.is_empty() {
        return Err(Error::user(
            "no prompt has a direction to align with: the rewards of every pool are all equal. Use other prompts, another \
             reward model or more --samples",
        ));
    }
    let mut cells = Vec::new();
    for rule in &settings.rules {
        for &m in &settings.sizes {
            cells.push(cell(&targets, rule, m, settings)?);
        }
    }
    if cells.iter().all(|c| c.error.is_some()) {
        let why = cells.iter().find_map(|c| c.error.clone()).unwrap_or_default();
        return Err(Error::user(format!(
            "no rule works at any of the group sizes: {why}"
        )));
    }
    Ok(Alignment {
        prompts: pools.len(),
        no_oracle,
        distinct_responses: mean(pools.iter().map(|p| p.gram.distinct as f64)).unwrap_or(0.0),
        differences: differences(&cells, settings)?,
        cells,
        settings: settings.clone(),
    })
}

fn differences(cells: &[Cell], settings: &AlignmentSettings) -> Result<Vec<Difference>> {
    let Some(baseline) = settings.baseline.as_deref() else {
        return Ok(Vec::new());
    };
    let mut out = Vec::new();
    for cell in cells.iter().filter(|c| c.rule != baseline) {
        let Some(base) = cells.iter().find(|c| c.rule == baseline && c.m == cell.m) else {
            continue;
        };
        if cell.error.is_some() || base.error.is_some() {
            continue;
        }
        let boot = Bootstrap::default();
        let (a, b): (Vec<f64>, Vec<f64>) = cell
            .per_prompt
            .iter()
            .zip(&base.per_prompt)
            .filter_map(|(a, b)| a.zip(*b))
            .unzip();
        let (all, others) = (&cell.per_prompt_with_zeros, &base.per_prompt_with_zeros);
        out.push(Difference {
            rule: cell.rule.clone(),
            m: cell.m,
            interval: match a.is_empty() {
                true => None,
                false => Some(boot.paired_difference(&a, &b)?),
            },
            prompts: a.len(),
            with_zeros: boot.paired_difference(all, others)?,
        });
    }
    Ok(out)
}
