//! The rounds of the search, over anything that draws responses (SLG, arXiv 2602.01485, Algorithm 2).
//!
//! 1. m responses from the prompt (the root). 2. The beginnings of the K best become states, m responses from each. 3. All
//!    that is left of the budget from where the predicted best of N is highest, root or state. 4. The best response seen.
//!
//! The rounds of many prompts run side by side. What a prompt gets does not depend on the others.

use crate::error::{Context, Error, Result};
use crate::rollout::Finish;

use super::estimate::{Predictor, TailEstimate, TailLaw};
use super::schedule::Schedule;
use super::states::{State, choose_states, prefix_length};
use crate::advantage::Alpha;

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// N, m and K.
    pub schedule: Schedule,
    /// Tokens of a prefix; `None` is [`prefix_length`] of the root's responses.
    pub prefix_tokens: Option<usize>,
    /// Go down the ranking until K states are found; see [`choose_states`].
    pub fill_width: bool,
    /// The tail share.
    pub alpha: Alpha,
    /// What is predicted of a tail.
    pub predictor: Predictor,
    /// Also draw what best-of-N would have drawn.
    pub compare_bon: bool,
}

/// Responses wanted from one node of one prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The prompt's number.
    pub prompt: usize,
    /// The node: 0 is the root, states count from 1. Part of every response's seed.
    pub node: usize,
    /// Tokens that every response begins with.
    pub prefix: Vec<u32>,
    /// The first response's number at its node: numbers `first .. first + samples` are part of their seeds.
    pub first: usize,
    /// Responses wanted.
    pub samples: usize,
}

/// A whole response, judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// Its tokens after the prompt, prefix and stop token included.
    pub tokens: Vec<u32>,
    /// What they spell, without the stop token.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// What the judge made of it.
    pub reward: f64,
}

/// What draws responses and judges them.
pub trait Draw {
    /// One list of `samples` responses a request, in order. A response is a function of (prompt, node, prefix, its number
    /// at the node) and of settings that stay the same for the whole search.
    ///
    /// # Errors
    /// Whatever sampling and judging meet.
    fn draw(&mut self, requests: &[Request]) -> Result<Vec<Vec<Response>>>;
}

/// The root or a state, with everything drawn from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Tokens that its responses begin with; none at the root.
    pub prefix: Vec<u32>,
    /// The root's response that it was cut from.
    pub from: Option<usize>,
    /// The tail of its first m rewards.
    pub tail: TailEstimate,
    /// The predicted best of N from here.
    pub predicted: f64,
    /// Its responses in order of their numbers; more than m where the rest of the budget went.
    pub responses: Vec<Response>,
}

/// A finished search of one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Searched {
    /// The prompt's number.
    pub prompt: usize,
    /// Tokens after which the states were cut.
    pub prefix_tokens: usize,
    /// The root, then the states.
    pub nodes: Vec<Node>,
    /// Among the K best, responses that had ended by the cut.
    pub ended: usize,
    /// Among the K best, responses that begin like a better one.
    pub merged: usize,
    /// The node that the rest of the budget went to.
    pub chosen: usize,
    /// Responses that best-of-N draws beyond those the root has, where it was asked for.
    pub beyond: Option<Vec<Response>>,
}

impl Searched {
    /// Responses drawn by the search.
    pub fn budget_used(&self) -> usize {
        self.nodes.iter().map(|n| n.responses.len()).sum()
    }

    /// Tokens drawn by the search; a prefix was drawn once, at the root.
    pub fn tokens_generated(&self) -> usize {
        let own = |n: &Node| -> usize { n.responses.iter().map(|r| r.tokens.len() - n.prefix.len()).sum() };
        self.nodes.iter().map(own).sum()
    }

    /// The best response seen, the first of equals: (node, number at the node, response).
    pub fn best(&self) -> Option<(usize, usize, &Response)> {
        let all = self.nodes.iter().enumerate();
        first_best(all.flat_map(|(n, node)| node.responses.iter().enumerate().map(move |(i, r)| (n, i, r))))
    }

    /// The N responses of best-of-N with the same seeds, where they were drawn. The first m are the search's own.
    pub fn best_of_n(&self) -> Option<impl Iterator<Item = &Response>> {
        let beyond = self.beyond.as_ref()?;
        Some(self.nodes.first()?.responses.iter().chain(beyond))
    }

    /// The best of [`Searched::best_of_n`], the first of equals: (number, response).
    pub fn best_of_n_best(&self) -> Option<(usize, &Response)> {
        let all = self.best_of_n()?.enumerate().map(|(i, r)| (0, i, r));
        first_best(all).map(|(_, i, r)| (i, r))
    }
}

fn first_best<'a>(
    all: impl Iterator<Item = (usize, usize, &'a Response)>,
) -> Option<(usize, usize, &'a Response)> {
    all.reduce(|best, r| if r.2.reward > best.2.reward { r } else { best })
}

/// Searches these prompts.
///
/// # Errors
/// As [`TailLaw::new`] and [`Draw::draw`]; a reward that is not finite (naming prompt and sample); a prefix length of 0.
pub fn search(world: &mut dyn Draw, prompts: &[usize], settings: &Settings) -> Result<Vec<Searched>> {
    if settings.prefix_tokens == Some(0) {
        return Err(Error::user(
            "--prefix-tokens must be at least 1: no tokens is the root itself",
        ));
    }
    let rounds = Rounds {
        settings,
        law: TailLaw::new(settings.alpha, settings.schedule.samples)?,
        deviations: settings.predictor.deviations(settings.schedule.budget as u64),
    };
    let mut all = rounds.roots(world, prompts)?;
    rounds.states(world, &mut all)?;
    rounds.rest(world, &mut all)?;
    if settings.compare_bon {
        rounds.beyond(world, &mut all)?;
    }
    let over = all.iter().find(|s| s.budget_used() > settings.schedule.budget);
    match over {
        Some(s) => Err(Error::internal(format!(
            "prompt {} took {} responses of a budget of {}",
            s.prompt,
            s.budget_used(),
            settings.schedule.budget
        ))),
        None => Ok(all),
    }
}

struct Rounds<'a> {
    settings: &'a Settings,
    law: TailLaw,
    deviations: f64,
}

impl Rounds<'_> {
    fn node(&self, request: Request, from: Option<usize>, responses: Vec<Response>) -> Result<Node> {
        let rewards: Vec<f64> = responses.iter().map(|r| r.reward).collect();
        let place = || match request.node {
            0 => format!("prompt {}", request.prompt + 1),
            n => format!("prompt {}, state {n}", request.prompt + 1),
        };
        let tail = self.law.fit(&rewards).context(place())?;
        Ok(Node {
            prefix: request.prefix,
            from,
            predicted: tail.predict(self.deviations),
            tail,
            responses,
        })
    }

    fn roots(&self, world: &mut dyn Draw, prompts: &[usize]) -> Result<Vec<Searched>> {
        let request = |prompt: &usize| Request {
            prompt: *prompt,
            node: 0,
            prefix: Vec::new(),
            first: 0,
            samples: self.settings.schedule.samples,
        };
        let requests: Vec<Request> = prompts.iter().map(request).collect();
        let drawn = draw(world, &requests)?;
        requests
            .into_iter()
            .zip(drawn)
            .map(|(request, responses)| {
                let lengths: Vec<usize> = responses.iter().map(|r| r.tokens.len()).collect();
                let prompt = request.prompt;
                Ok(Searched {
                    prompt,
                    prefix_tokens: self
                        .settings
                        .prefix_tokens
                        .unwrap_or_else(|| prefix_length(&lengths)),
                    nodes: vec![self.node(request, None, responses)?],
                    ended: 0,
                    merged: 0,
                    chosen: 0,
                    beyond: None,
                })
            })
            .collect()
    }

    fn states(&self, world: &mut dyn Draw, all: &mut [Searched]) -> Result<()> {
        let (mut requests, mut owners) = (Vec::new(), Vec::new());
        for (at, s) in all.iter_mut().enumerate() {
            let responses: Vec<(&[u32], f64)> = s.nodes[0]
                .responses
                .iter()
                .map(|r| (r.tokens.as_slice(), r.reward))
                .collect();
            let width = self.settings.schedule.width;
            let chosen = choose_states(&responses, s.prefix_tokens, width, self.settings.fill_width);
            (s.ended, s.merged) = (chosen.ended, chosen.merged);
            for (node, State { prefix, from }) in (1..).zip(chosen.states) {
                requests.push(Request {
                    prompt: s.prompt,
                    node,
                    prefix,
                    first: 0,
                    samples: self.settings.schedule.samples,
                });
                owners.push((at, from));
            }
        }
        let drawn = draw(world, &requests)?;
        for ((request, responses), (at, from)) in requests.into_iter().zip(drawn).zip(owners) {
            let node = self.node(request, Some(from), responses)?;
            all[at].nodes.push(node);
        }
        Ok(())
    }

    /// Spends what is left; the root wins a tie, then the earlier state.
    fn rest(&self, world: &mut dyn Draw, all: &mut [Searched]) -> Result<()> {
        for s in all.iter_mut() {
            for at in 1..s.nodes.len() {
                if s.nodes[at].predicted > s.nodes[s.chosen].predicted {
                    s.chosen = at;
                }
            }
        }
        let request = |s: &Searched| Request {
            prompt: s.prompt,
            node: s.chosen,
            prefix: s.nodes[s.chosen].prefix.clone(),
            first: s.nodes[s.chosen].responses.len(),
            samples: self.settings.schedule.budget.saturating_sub(s.budget_used()),
        };
        let requests: Vec<Request> = all.iter().map(request).collect();
        for (s, more) in all.iter_mut().zip(draw(world, &requests)?) {
            s.nodes[s.chosen].responses.extend(more);
        }
        Ok(())
    }

    /// The root's responses from m to N, where the search has not drawn them itself.
    fn beyond(&self, world: &mut dyn Draw, all: &mut [Searched]) -> Result<()> {
        let request = |s: &Searched| Request {
            prompt: s.prompt,
            node: 0,
            prefix: Vec::new(),
            first: s.nodes[0].responses.len(),
            samples: self.settings.schedule.budget - s.nodes[0].responses.len(),
        };
        let requests: Vec<Request> = all.iter().map(request).collect();
        for (s, more) in all.iter_mut().zip(draw(world, &requests)?) {
            s.beyond = Some(more);
        }
        Ok(())
    }
}

/// Draws, passing over requests for nothing, and checks what came.
fn draw(world: &mut dyn Draw, requests: &[Request]) -> Result<Vec<Vec<Response>>> {
    let wanted: Vec<Request> = requests.iter().filter(|r| r.samples > 0).cloned().collect();
    let drawn = if wanted.is_empty() {
        Vec::new()
    } else {
        world.draw(&wanted)?
    };
    let right = drawn.len() == wanted.len() && drawn.iter().zip(&wanted).all(|(d, r)| d.len() == r.samples);
    if !right {
        return Err(Error::internal("another number of responses than asked for"));
    }
    for (request, responses) in wanted.iter().zip(&drawn) {
        if let Some(at) = responses.iter().position(|r| !r.reward.is_finite()) {
            return Err(Error::user(format!(
                "prompt {}, node {}: the reward of sample {} is {}; rewards must be finite. Check the reward model",
                request.prompt + 1,
                request.node,
                request.first + at,
                responses[at].reward
            )));
        }
    }
    let mut drawn = drawn.into_iter();
    let one = |r: &Request| match r.samples {
        0 => Vec::new(),
        _ => drawn.next().unwrap_or_default(),
    };
    Ok(requests.iter().map(one).collect())
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
