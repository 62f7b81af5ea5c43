//! Scoring of responses that come group by group.

use super::{Item, Reward};
use crate::error::{Error, Result};
use crate::gpu::Buffer;

/// Rewards under way ([`Reward::scoring`]), or the rows on the device where they will be
/// ([`Reward::scoring_on_device`]).
pub trait Scoring<T = f64> {
    /// Takes responses to be scored. A judge that computes on the device submits its work, or keeps it for later, and waits for the device only where
    /// much of its own work is under way.
    ///
    /// # Errors
    /// As [`Reward::score`], of these or of earlier responses.
    fn add(&mut self, items: &[Item<'_>]) -> Result<()>;

    /// The rewards of all responses, in the order in which they were added.
    ///
    /// # Errors
    /// As [`Reward::score`].
    fn finish(self: Box<Self>) -> Result<Vec<T>>;
}

/// What a judge does that has no other way: it scores what it is given at once.
pub(super) struct AtOnce<'r, R: ?Sized> {
    pub(super) reward: &'r mut R,
    pub(super) rewards: Vec<f64>,
}

impl<R: Reward + ?Sized> Scoring for AtOnce<'_, R> {
    fn add(&mut self, items: &[Item<'_>]) -> Result<()> {
        self.rewards.extend(self.reward.score(items)?);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<f64>> {
        Ok(self.rewards)
    }
}

/// Rewards of groups of responses that are added in any order, as they end.
pub struct GroupScoring<'r, T = f64> {
    scoring: Box<dyn Scoring<T> + 'r>,
    /// Group and number of responses, in the order added.
    added: Vec<(usize, usize)>,
    groups: usize,
}

impl<'r> GroupScoring<'r> {
    /// For `groups` groups, each of which must be added once.
    pub fn new(reward: &'r mut dyn Reward, groups: usize) -> Self {
        Self::of(reward.scoring(), groups)
    }
}

impl<'r> GroupScoring<'r, u32> {
    /// As [`GroupScoring::new`], for the rows of `scores` in place of rewards ([`Reward::scoring_on_device`]).
    pub fn on_device(reward: &'r mut dyn Reward, scores: &Buffer, groups: usize) -> Option<Self> {
        Some(Self::of(reward.scoring_on_device(scores)?, groups))
    }
}

impl<'r, T: Copy> GroupScoring<'r, T> {
    fn of(scoring: Box<dyn Scoring<T> + 'r>, groups: usize) -> Self {
        Self {
            scoring,
            added: Vec::with_capacity(groups),
            groups,
        }
    }

    /// Whether a group was added.
    pub fn has(&self, group: usize) -> bool {
        self.added.iter().any(|(g, _)| *g == group)
    }

    /// Takes a group's responses, see [`Scoring::add`].
    ///
    /// # Errors
    /// As [`Scoring::add`].
    pub fn add(&mut self, group: usize, items: &[Item<'_>]) -> Result<()> {
        if group >= self.groups || self.has(group) {
            return Err(Error::internal(format!("group {group} is scored twice")));
        }
        self.added.push((group, items.len()));
        self.scoring.add(items)
    }

    /// The rewards, `[group][response]`.
    ///
    /// # Errors
    /// As [`Scoring::finish`].
    pub fn finish(self) -> Result<Vec<Vec<T>>> {
        let rewards = self.scoring.finish()?;
        let wanted: usize = self.added.iter().map(|(_, n)| n).sum();
        if self.added.len() != self.groups || rewards.len() != wanted {
            return Err(Error::internal(format!(
                "{} rewards of {} groups, where {wanted} of {} are wanted",
                rewards.len(),
                self.added.len(),
                self.groups
            )));
        }
        let (mut out, mut rest) = (vec![Vec::new(); self.groups], &rewards[..]);
        for (group, n) in self.added {
            let (own, after) = rest.split_at(n);
            out[group] = own.to_vec();
            rest = after;
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::text::PromptContent;

    /// Scores by length; refuses "!".
    struct Length;

    impl Reward for Length {
        fn name(&self) -> &str {
            "length"
        }

        fn score(&mut self, items: &[Item<'_>]) -> Result<Vec<f64>> {
            if items.iter().any(|i| i.response == "!") {
                return Err(Error::user("!"));
            }
            Ok(items.iter().map(|i| i.response.len() as f64).collect())
        }
    }

    #[test]
    fn groups_get_their_rewards_in_whatever_order_they_end() {
        let prompt = PromptContent::Text("p".into());
        let group = |texts: &[&'static str]| -> Vec<Item<'_>> {
            let item = |response: &&'static str| Item {
                prompt: &prompt,
                response,
            };
            texts.iter().map(item).collect()
        };
        let mut judge = Length;
        let mut scoring = GroupScoring::new(&mut judge, 3);
        scoring.add(2, &group(&["a", "bbb"])).unwrap();
        scoring.add(0, &group(&[])).unwrap();
        assert!(scoring.has(2) && scoring.has(0) && !scoring.has(1));
        assert!(scoring.add(2, &group(&["a"])).is_err());
        scoring.add(1, &group(&["cc"])).unwrap();
        assert_eq!(scoring.finish().unwrap(), [vec![], vec![2.0], vec![1.0, 3.0]]);
        let mut scoring = GroupScoring::new(&mut judge, 2);
        assert!(scoring.add(0, &group(&["a", "!"])).is_err());
        drop(scoring);
        let mut scoring = GroupScoring::new(&mut judge, 2);
        scoring.add(0, &group(&["a"])).unwrap();
        assert!(scoring.finish().is_err(), "a group is missing");
    }
}
