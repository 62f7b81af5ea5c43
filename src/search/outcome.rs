//! What a search of many prompts comes to: a summary, and the paired comparison with best-of-N at the same budget.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::eval::bootstrap::told;
use crate::eval::compare::tables;
use crate::eval::{Bootstrap, Interval, WinTieLoss, win_tie_loss};
use crate::report::{Align, Cell, Table};

use super::line::{Best, BestOfNLine, Line};
use super::schedule::Schedule;

/// All prompts in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// N, m and K.
    pub schedule: Schedule,
    /// Prompts.
    pub prompts: usize,
    /// Mean number of states a prompt.
    pub mean_states: f64,
    /// Share of prompts whose rest went to a state.
    pub chose_state: f64,
    /// Tokens of prompts and prefixes computed, each request's once.
    pub prefill_tokens: usize,
    /// Mean over prompts of the prediction at the root, and at the node that was chosen.
    pub predicted: Predicted,
    /// The search.
    pub search: Side,
    /// Best-of-N at the same budget and seeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_of_n: Option<Side>,
    /// The search minus best-of-N, prompt by prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<Difference>,
}

/// Mean predictions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Predicted {
    /// At the root.
    pub root: f64,
    /// At the chosen node.
    pub chosen: f64,
}

/// One way of spending the budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// Mean over prompts of the best response's reward.
    pub reward: Interval,
    /// Mean over prompts of its true score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub true_score: Option<Interval>,
    /// Responses drawn, over all prompts.
    pub responses: usize,
    /// The most that any prompt took.
    pub most_responses: usize,
    /// Tokens drawn, over all prompts.
    pub tokens_generated: usize,
    /// Mean length of the best responses in tokens.
    pub mean_length: f64,
}

/// A paired difference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// In the best response's reward.
    pub reward: Interval,
    /// Prompts won, tied and lost by the search.
    pub outcome: WinTieLoss,
    /// In its true score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub true_score: Option<Interval>,
    /// Prompts won, tied and lost by the true score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub true_outcome: Option<WinTieLoss>,
}

fn side(bests: &[&Best], responses: &[usize], tokens: usize, boot: &Bootstrap) -> Result<Side> {
    let of = |f: &dyn Fn(&Best) -> f64| bests.iter().map(|b| f(b)).collect::<Vec<f64>>();
    let true_score = truths(bests).map(|t| boot.mean(&t)).transpose()?;
    Ok(Side {
        reward: boot.mean(&of(&|b| b.reward))?,
        true_score,
        responses: responses.iter().sum(),
        most_responses: responses.iter().copied().max().unwrap_or(0),
        tokens_generated: tokens,
        mean_length: of(&|b| b.tokens as f64).iter().sum::<f64>() / bests.len().max(1) as f64,
    })
}

fn truths(bests: &[&Best]) -> Option<Vec<f64>> {
    bests.iter().map(|b| b.true_score).collect()
}

impl Summary {
    /// Adds up the lines of a search.
    ///
    /// # Errors
    /// A user error when there are no lines; as [`Bootstrap::mean`].
    pub fn new(lines: &[Line], boot: &Bootstrap) -> Result<Self> {
        let Some(first) = lines.first() else {
            return Err(Error::user("there are no prompts to search"));
        };
        let mean = |f: &dyn Fn(&Line) -> f64| lines.iter().map(f).sum::<f64>() / lines.len() as f64;
        let bests: Vec<&Best> = lines.iter().map(|l| &l.best).collect();
        let used: Vec<usize> = lines.iter().map(|l| l.budget_used).collect();
        let tokens = lines.iter().map(|l| l.tokens_generated).sum();
        let others: Option<Vec<&BestOfNLine>> = lines.iter().map(|l| l.best_of_n.as_ref()).collect();
        let (mut best_of_n, mut difference) = (None, None);
        if let Some(others) = others {
            let theirs: Vec<&Best> = others.iter().map(|o| &o.best).collect();
            let used: Vec<usize> = others.iter().map(|o| o.budget_used).collect();
            let tokens = others.iter().map(|o| o.tokens_generated).sum();
            best_of_n = Some(side(&theirs, &used, tokens, boot)?);
            difference = Some(Difference::new(&bests, &theirs, boot)?);
        }
        Ok(Self {
            schedule: first.schedule,
            prompts: lines.len(),
            mean_states: mean(&|l| (l.nodes.len() - 1) as f64),
            prefill_tokens: lines.iter().map(|l| l.prefill_tokens).sum(),
            chose_state: mean(&|l| f64::from(u8::from(l.chosen > 0))),
            predicted: Predicted {
                root: mean(&|l| l.nodes[0].predicted),
                chosen: mean(&|l| l.nodes[l.chosen].predicted),
            },
            search: side(&bests, &used, tokens, boot)?,
            best_of_n,
            difference,
        })
    }

    /// One row a way of spending the budget, and their difference.
    pub fn table(&self) -> Table {
        let columns = [
            ("method", Align::Left),
            ("responses", Align::Right),
            ("tokens", Align::Right),
            ("best reward [95%]", Align::Right),
            ("win/tie/loss", Align::Right),
            ("true score [95%]", Align::Right),
            ("win/tie/loss, true", Align::Right),
        ];
        let known = self.search.true_score.is_some();
        let shown = if known { columns.len() } else { columns.len() - 2 };
        let mut table = Table::new(columns.into_iter().take(shown));
        let mut push = |mut row: Vec<Cell>| {
            row.truncate(shown);
            table.push(row);
        };
        let n = self.schedule.budget;
        for (name, side) in [
            ("SLG search".to_string(), Some(&self.search)),
            (format!("best-of-{n}"), self.best_of_n.as_ref()),
        ] {
            let Some(side) = side else { continue };
            push(vec![
                name.into(),
                side.responses.into(),
                side.tokens_generated.into(),
                interval(Some(side.reward)),
                Cell::Empty,
                interval(side.true_score),
                Cell::Empty,
            ]);
        }
        if let Some(d) = &self.difference {
            push(vec![
                "difference".into(),
                Cell::Empty,
                Cell::Empty,
                interval(Some(d.reward)),
                counts(Some(d.outcome)),
                interval(d.true_score),
                counts(d.true_outcome),
            ]);
        }
        table
    }

    /// The table under a heading that says what was done.
    pub fn markdown(&self, what: &str) -> String {
        let s = &self.schedule;
        format!(
            "# SLG search at a budget of {} responses\n\n{what}\n\nm = {} responses from the prompt and from each of up to K = {} \
             states, the rest where the predicted best of {} is highest. {} prompts; {:.2} states a prompt; the rest went to a state \
             for {:.0}% of them. Predicted best: {:.3} at the root, {:.3} where the rest went. {}\n\n{}",
            s.budget,
            s.samples,
            s.width,
            s.budget,
            self.prompts,
            self.mean_states,
            100.0 * self.chose_state,
            self.predicted.root,
            self.predicted.chosen,
            told(self.prompts, "paired bootstrap over prompts"),
            self.table().markdown()
        )
    }
}

impl Difference {
    fn new(ours: &[&Best], theirs: &[&Best], boot: &Bootstrap) -> Result<Self> {
        let rewards = |b: &[&Best]| b.iter().map(|b| b.reward).collect::<Vec<f64>>();
        let (a, b) = (rewards(ours), rewards(theirs));
        let (mut true_score, mut true_outcome) = (None, None);
        if let (Some(a), Some(b)) = (truths(ours), truths(theirs)) {
            true_score = Some(boot.paired_difference(&a, &b)?);
            true_outcome = Some(win_tie_loss(&a, &b)?);
        }
        Ok(Self {
            reward: boot.paired_difference(&a, &b)?,
            outcome: win_tie_loss(&a, &b)?,
            true_score,
            true_outcome,
        })
    }
}

fn interval(value: Option<Interval>) -> Cell {
    tables::interval(value, 3)
}

fn counts(outcome: Option<WinTieLoss>) -> Cell {
    match outcome {
        Some(o) => format!("{}/{}/{}", o.wins, o.ties, o.losses).into(),
        None => Cell::Empty,
    }
}
#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::advantage::Alpha;
    use crate::rollout::Finish;
    use crate::search::run::{Node, Response, Searched};
    use crate::search::{TailLaw, schedule::Asked};
    use serde_json::Value;

    fn response(tokens: &[u32], reward: f64) -> Response {
        Response {
            tokens: tokens.to_vec(),
            text: format!("{tokens:?}"),
            finish: Finish::Stop,
            reward,
        }
    }

    /// Four root responses, four from a state that begins with 7, one more from there; best-of-9 has five others.
    fn searched(prompt: usize, bon: f64) -> Searched {
        let law = TailLaw::new(Alpha::DEFAULT, 4).unwrap();
        let node = |prefix: &[u32], from, rewards: &[f64]| Node {
            prefix: prefix.to_vec(),
            from,
            tail: law.fit(&rewards[..4]).unwrap(),
            predicted: rewards[0],
            responses: rewards.iter().map(|r| response(&[7, 1, 2], *r)).collect(),
        };
        Searched {
            prompt,
            prefix_tokens: 1,
            nodes: vec![
                node(&[], None, &[0.0, 1.0, 2.0, 3.0]),
                node(&[7], Some(3), &[4.0, 1.0, 5.0, 2.0, 5.0]),
            ],
            ended: 0,
            merged: 0,
            chosen: 1,
            beyond: Some((0..5).map(|i| response(&[1, 2], bon - f64::from(i))).collect()),
        }
    }

    fn line(prompt: usize, bon: f64) -> Line {
        let schedule = crate::search::Schedule::new(
            9,
            Asked {
                samples: Some(4),
                width: Some(1),
            },
        )
        .unwrap();
        let names = (Value::from("a").into(), Value::from("p"));
        let spell = |t: &[u32]| Ok(format!("{t:?}"));
        Line::new(&searched(prompt, bon), schedule, 9, names, &spell, &mut |t| {
            Ok(Some(t.len() as f64))
        })
        .unwrap()
    }

    #[test]
    fn a_line_tells_what_was_drawn_and_which_was_best() {
        let l = line(3, 6.0);
        assert_eq!(
            (l.budget_used, l.best.node, l.best.sample, l.best.reward),
            (9, 1, 2, 5.0)
        );
        // A state's responses do not draw their prefix again.
        assert_eq!(l.tokens_generated, 4 * 3 + 5 * 2);
        assert_eq!(
            (l.nodes[0].prefix.as_deref(), l.nodes[1].prefix.as_deref()),
            (None, Some("[7]"))
        );
        let bon = l.best_of_n.as_ref().unwrap();
        assert_eq!((bon.budget_used, bon.best.sample, bon.best.reward), (9, 4, 6.0));
        assert_eq!((bon.tokens_generated, bon.rewards.len()), (4 * 3 + 5 * 2, 9));
        let json = serde_json::to_value(&l).unwrap();
        assert_eq!(json["nodes"][1]["rewards"][4], 5.0);
        assert_eq!(json["schedule"]["samples"], 4);
        assert_eq!(json["best_of_n"]["reward"], 6.0);
        let text = serde_json::to_string(&l).unwrap();
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), l);
    }

    #[test]
    fn the_summary_pairs_prompts() {
        let lines = [line(0, 6.0), line(1, 4.0), line(2, 5.0), line(3, 2.0)];
        let s = Summary::new(&lines, &Bootstrap::default()).unwrap();
        let d = s.difference.as_ref().unwrap();
        // Best-of-9 sees the root's 3 as well: 6, 4, 5 and 3 against 5.
        assert!((d.reward.mean - 0.5).abs() < 1e-12);
        assert_eq!((d.outcome.wins, d.outcome.ties, d.outcome.losses), (2, 1, 1));
        assert_eq!((s.search.responses, s.search.most_responses), (36, 9));
        assert_eq!(s.search.reward.ends(), Some((5.0, 5.0)));
        assert_eq!(s.prefill_tokens, 36);
        assert_eq!(
            (s.mean_states, s.chose_state, s.predicted.chosen),
            (1.0, 1.0, 4.0)
        );
        let text = s.markdown("what");
        assert!(text.contains("best-of-9") && text.contains("2/1/1"), "{text}");
        assert!(text.contains("true score"), "{text}");
        assert!(Summary::new(&[], &Bootstrap::default()).is_err());
    }
}
