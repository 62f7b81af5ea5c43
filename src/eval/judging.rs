//! Judging what was sampled: afterwards, or beside the sampling of the rest.

use std::collections::HashMap;
use std::ops::Range;

use super::run::{Draws, Evaluation, Judged, Response};
use crate::error::Result;
use crate::reward::{GroupScoring, Item, Reward};
use crate::text::PromptContent;

/// One judge's rewards of some prompts' responses, under way. Equal responses to a prompt are judged once.
struct Judging<'a> {
    name: String,
    scoring: GroupScoring<'a>,
    /// By prompt, which of its judged responses each sample is.
    places: Vec<Vec<usize>>,
}

impl<'a> Judging<'a> {
    fn new(reward: &'a mut dyn Reward, prompts: usize) -> Self {
        Self {
            name: reward.name().to_string(),
            scoring: GroupScoring::new(reward, prompts),
            places: vec![Vec::new(); prompts],
        }
    }

    /// Takes the responses to prompt number `at`, unless it has them.
    fn take(&mut self, at: usize, prompt: &PromptContent, group: &[Response]) -> Result<()> {
        if self.scoring.has(at) {
            return Ok(());
        }
        let (mut items, mut known) = (Vec::new(), HashMap::new());
        for response in group {
            let place = *known.entry(response.text.as_str()).or_insert_with(|| {
                items.push(Item {
                    prompt,
                    response: &response.text,
                });
                items.len() - 1
            });
            self.places[at].push(place);
        }
        self.scoring.add(at, &items)
    }

    fn finish(self) -> Result<Judged> {
        let rewards = self.scoring.finish()?;
        let spread =
            |(places, rewards): (Vec<usize>, Vec<f64>)| places.iter().map(|at| rewards[*at]).collect();
        Ok(Judged {
            name: self.name,
            values: self.places.into_iter().zip(rewards).map(spread).collect(),
        })
    }
}

/// Rewards of responses, `[prompt][sample]`. Equal responses to a prompt are judged once.
///
/// # Errors
/// As [`Reward::score`].
pub fn judge(
    contents: &[PromptContent],
    responses: &[Vec<Response>],
    reward: &mut dyn Reward,
) -> Result<Judged> {
    let mut judging = Judging::new(reward, responses.len());
    for (at, (prompt, group)) in contents.iter().zip(responses).enumerate() {
        judging.take(at, prompt, group)?;
    }
    judging.finish()
}

/// Samples responses to some prompts and has every judge score them, those of a prompt as soon as all have ended. `contents` are those of
/// all prompts.
///
/// # Errors
/// As [`Draws::responses`] and [`judge`].
pub fn evaluate(
    draws: &mut Draws<'_>,
    contents: &[PromptContent],
    prompts: Range<usize>,
    rewards: &mut [&mut dyn Reward],
) -> Result<Evaluation> {
    let contents = &contents[prompts.clone()];
    let mut judges: Vec<Judging<'_>> = rewards
        .iter_mut()
        .map(|reward| Judging::new(&mut **reward, contents.len()))
        .collect();
    let mut take = |at: usize, group: &[Response]| {
        let mut all = judges.iter_mut();
        all.try_for_each(|judge| judge.take(at, &contents[at], group))
    };
    let responses = draws.responses_each(prompts, &mut take)?;
    for (at, group) in responses.iter().enumerate() {
        take(at, group)?;
    }
    Ok(Evaluation {
        responses,
        rewards: judges.into_iter().map(Judging::finish).collect::<Result<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::{FloatDtype, Residency, TEMPLATE_DATE};
    use crate::demo::{Split, generate};
    use crate::eval::run::{Policy, PolicyOptions, Sampling};
    use crate::gpu::{Gpu, GpuOptions};
    use crate::kernels::sample::SampleParams;
    use crate::reward::{RewardModel, RewardOptions};

    /// Scores by length and counts what it is asked.
    struct Length(usize);

    impl Reward for Length {
        fn name(&self) -> &str {
            "length"
        }

        fn score(&mut self, items: &[Item<'_>]) -> Result<Vec<f64>> {
            self.0 += items.len();
            Ok(items.iter().map(|i| i.response.len() as f64).collect())
        }
    }

    #[test]
    fn equal_responses_are_judged_once_and_every_place_gets_its_reward() {
        let contents = [PromptContent::Text("p".into()), PromptContent::Text("q".into())];
        let group = |texts: [&str; 3]| {
            texts.map(|t| Response {
                text: t.into(),
                tokens: t.len() + 1,
                truncated: t.len() > 2,
            })
        };
        let responses = vec![
            group(["a", "bb", "a"]).to_vec(),
            group(["ccc", "a", "ccc"]).to_vec(),
        ];
        let mut reward = Length(0);
        let judged = judge(&contents, &responses, &mut reward).unwrap();
        assert_eq!(judged.values, [[1.0, 2.0, 1.0], [3.0, 1.0, 3.0]]);
        // "a" answers two prompts, so it is judged for each.
        assert_eq!(reward.0, 4);
        assert_eq!(judged.share_at_least(2.0), 0.5);
        let evaluation = Evaluation {
            responses,
            rewards: vec![judged],
        };
        assert_eq!(evaluation.rewards[0].mean(), 11.0 / 6.0);
        assert_eq!(evaluation.mean_length(), 17.0 / 6.0);
        assert_eq!(evaluation.truncated_ratio(), 1.0 / 3.0);
    }

    /// Two judges beside the sampling: the responses and rewards of sampling first and judging then, to the bit.
    #[test]
    fn judging_beside_sampling_changes_nothing() {
        let gpu = Gpu::open(&GpuOptions {
            device: std::env::var("TEA_DEVICE").ok(),
            ..Default::default()
        })
        .unwrap();
        let contents: Vec<PromptContent> = generate(1, 5, Split::HeldOut)
            .into_iter()
            .map(|e| PromptContent::Text(e.prompt))
            .collect();
        let date = TEMPLATE_DATE.parse().unwrap();
        let options = PolicyOptions {
            adapter: None,
            dtype: None,
            max_completion_length: 32,
            raw: false,
            date,
            prompts_file: None,
        };
        let policy = Policy::load(&gpu, "tiny", &contents, &options).unwrap();
        let sampling = Sampling {
            params: SampleParams::PLAIN,
            seed: 3,
            batch: 9,
            kv_cache_dtype: FloatDtype::Float32,
        };
        let mut draws = policy.draws(6, &sampling).unwrap();
        let options = RewardOptions {
            adapter: None,
            dtype: None,
            // Passes of 64 rows and more begin early.
            token_budget: 128,
            positions: 128,
            residency: Residency::Resident,
            free: None,
            raw: false,
            date,
        };
        let mut model = RewardModel::load(&gpu, "tiny-reward", &options).unwrap();
        let mut length = Length(0);
        let got = evaluate(&mut draws, &contents, 1..5, &mut [&mut model, &mut length]).unwrap();
        let mut told = Vec::new();
        let responses = draws
            .responses_each(1..5, &mut |at, group| {
                told.push((at, group.to_vec()));
                Ok(())
            })
            .unwrap();
        assert!(!told.is_empty() && told.len() < 4, "{}", told.len());
        assert!(told.iter().all(|(at, group)| *group == responses[*at]));
        let rewards = vec![
            judge(&contents[1..5], &responses, &mut model).unwrap(),
            judge(&contents[1..5], &responses, &mut length).unwrap(),
        ];
        assert_eq!(got, Evaluation { responses, rewards });
        assert_eq!(
            got.rewards[0].values.iter().map(Vec::len).collect::<Vec<_>>(),
            [6; 4]
        );
    }
}
