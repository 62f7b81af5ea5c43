//! Which rewards a rule takes, and what its advantages are measured in.

use crate::error::{Error, Result};

/// Rewards that a rule takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewards {
    /// Any finite ones; a shift of the whole group changes nothing.
    Any,
    /// Those of at least 0, where 0 means nothing achieved.
    NotNegative,
    /// 0 for a failure, 1 for a success.
    ZeroOne,
}

/// What advantages are measured in: rewards times a factor give advantages times this power of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Units {
    /// Rewards: the factor itself.
    Reward,
    /// Nothing: the factor does not show, but for an ε beside a standard deviation.
    None,
    /// Neither: a setting of the rule is in units of reward.
    Mixed,
}

impl Rewards {
    /// Whether a finite reward is one of them.
    pub fn takes(self, reward: f64) -> bool {
        match self {
            Self::Any => true,
            Self::NotNegative => reward >= 0.0,
            Self::ZeroOne => reward == 0.0 || reward == 1.0,
        }
    }

    /// Refuses rewards (m,) that the rule `name` does not take.
    ///
    /// # Errors
    /// A user error naming the sample index.
    pub fn check(self, name: &str, rewards: &[f64]) -> Result<()> {
        let what = match self {
            Self::Any => return Ok(()),
            Self::NotNegative => "rewards of at least 0",
            Self::ZeroOne => "rewards of 0 or 1",
        };
        match rewards.iter().enumerate().find(|(_, r)| !self.takes(**r)) {
            None => Ok(()),
            Some((i, r)) => Err(Error::user(format!(
                "the reward of sample {i} is {r}: the rule {name} takes {what}; choose another rule or reward"
            ))),
        }
    }

    /// Rewards of this kind made of any (m,): for measurements that give every rule the same groups.
    pub fn like(self, rewards: &[f64]) -> Vec<f64> {
        let one = |r: &f64| match self {
            Self::Any => *r,
            Self::NotNegative => r.abs(),
            Self::ZeroOne => f64::from(u8::from(*r > 0.0)),
        };
        rewards.iter().map(one).collect()
    }
}
