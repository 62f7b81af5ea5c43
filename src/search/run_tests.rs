//! The search over a made-up policy that counts what it is asked for.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;

use rand::RngExt;

use super::*;
use crate::rng::{Stream, seed_for};
use crate::search::schedule::Asked;

/// Letters at random; the reward is their mean, so that a good beginning is worth going on from.
struct World {
    seed: u64,
    /// Letters to choose from.
    letters: u32,
    /// Longest response.
    longest: usize,
    drawn: HashMap<usize, usize>,
    calls: Vec<Vec<Request>>,
    /// The reward of this response (in order of drawing) is NaN.
    bad: Option<usize>,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            letters: 8,
            longest: 12,
            drawn: HashMap::new(),
            calls: Vec::new(),
            bad: None,
        }
    }

    fn response(&self, r: &Request, number: usize) -> Response {
        let sample = ((r.node as u64) << 32) + number as u64;
        let mut stream = Stream::new(seed_for(self.seed, 0, r.prompt as u64, sample), 1);
        let mut tokens = r.prefix.clone();
        while tokens.len() < self.longest && tokens.last() != Some(&0) {
            tokens.push(stream.random_range(0..self.letters));
        }
        let sum: u32 = tokens.iter().sum();
        Response {
            text: format!("{tokens:?}"),
            reward: f64::from(sum) / tokens.len() as f64,
            finish: Finish::Stop,
            tokens,
        }
    }
}

impl Draw for World {
    fn draw(&mut self, requests: &[Request]) -> Result<Vec<Vec<Response>>> {
        self.calls.push(requests.to_vec());
        let mut out = Vec::new();
        for r in requests {
            let seen = self.drawn.entry(r.prompt).or_default();
            let before = *seen;
            *seen += r.samples;
            let mut group: Vec<Response> = (r.first..r.first + r.samples)
                .map(|number| self.response(r, number))
                .collect();
            if let Some(bad) = self.bad.and_then(|b| b.checked_sub(before))
                && bad < group.len()
            {
                group[bad].reward = f64::NAN;
            }
            out.push(group);
        }
        Ok(out)
    }
}

fn settings(budget: usize, asked: Asked) -> Settings {
    Settings {
        schedule: Schedule::new(budget, asked).unwrap(),
        prefix_tokens: None,
        fill_width: false,
        alpha: Alpha::DEFAULT,
        predictor: Predictor::Quantile,
        compare_bon: false,
    }
}

fn asked(m: usize, k: usize) -> Asked {
    Asked {
        samples: Some(m),
        width: Some(k),
    }
}

#[test]
fn the_budget_is_spent_and_never_exceeded() {
    let budgets = (60..200)
        .chain([256, 1000])
        .map(|n| (n, Asked::default()))
        .chain([
            (8, asked(4, 1)),
            (9, asked(4, 1)),
            (55, asked(5, 10)),
            (57, asked(5, 10)),
        ]);
    for (budget, asked) in budgets {
        for fill_width in [false, true] {
            let mut world = World::new(budget as u64);
            let s = Settings {
                fill_width,
                ..settings(budget, asked)
            };
            let found = search(&mut world, &[0, 1], &s).unwrap();
            for (prompt, f) in found.iter().enumerate() {
                // What was really drawn, not what the search says it drew.
                assert_eq!(world.drawn[&prompt], budget, "{s:?}");
                assert_eq!(f.budget_used(), budget);
                assert!(f.nodes.len() <= s.schedule.width + 1);
                let m = s.schedule.samples;
                let rest = |n: &Node| n.responses.len() - m;
                assert!(
                    f.nodes
                        .iter()
                        .enumerate()
                        .all(|(i, n)| i == f.chosen || rest(n) == 0)
                );
            }
        }
    }
}

#[test]
fn the_rest_goes_where_the_prediction_is_highest_and_the_best_seen_is_returned() {
    let mut from_state = 0;
    for seed in 0..20 {
        let mut world = World::new(seed);
        let f = search(&mut world, &[3], &settings(100, Asked::default()))
            .unwrap()
            .remove(0);
        let highest = f.nodes.iter().map(|n| n.predicted).fold(f64::MIN, f64::max);
        assert_eq!(f.nodes[f.chosen].predicted, highest);
        from_state += usize::from(f.chosen > 0);
        let rewards = f.nodes.iter().flat_map(|n| n.responses.iter().map(|r| r.reward));
        let best = f.best().unwrap();
        assert_eq!(best.2.reward, rewards.fold(f64::MIN, f64::max));
        assert_eq!(best.2, &f.nodes[best.0].responses[best.1]);
        for node in &f.nodes[1..] {
            let parent = &f.nodes[0].responses[node.from.unwrap()];
            assert_eq!(node.prefix, parent.tokens[..f.prefix_tokens]);
            assert!(node.responses.iter().all(|r| r.tokens.starts_with(&node.prefix)));
            // Only a state's own samples count as drawn tokens.
            let rewards: Vec<f64> = node.responses[..20].iter().map(|r| r.reward).collect();
            assert_eq!(
                TailLaw::new(Alpha::DEFAULT, 20).unwrap().fit(&rewards).unwrap(),
                node.tail
            );
        }
        let whole: usize = f
            .nodes
            .iter()
            .flat_map(|n| &n.responses)
            .map(|r| r.tokens.len())
            .sum();
        let prefixes: usize = f.nodes.iter().map(|n| n.prefix.len() * n.responses.len()).sum();
        assert_eq!(f.tokens_generated(), whole - prefixes);
    }
    assert!(
        from_state > 10,
        "a good beginning should be worth going on from: {from_state} of 20"
    );
}

#[test]
fn a_search_depends_on_its_seed_and_prompt_alone() {
    let s = settings(70, Asked::default());
    let alone = search(&mut World::new(5), &[2], &s).unwrap();
    let beside = search(&mut World::new(5), &[0, 1, 2], &s).unwrap();
    assert_eq!(alone[0], beside[2]);
    assert_ne!(
        alone[0].nodes,
        search(&mut World::new(6), &[2], &s).unwrap()[0].nodes
    );
}

#[test]
fn best_of_n_shares_the_roots_draws() {
    for seed in 0..10 {
        let s = Settings {
            compare_bon: true,
            ..settings(80, Asked::default())
        };
        let mut world = World::new(seed);
        let f = search(&mut world, &[1], &s).unwrap().remove(0);
        let bon: Vec<&Response> = f.best_of_n().unwrap().collect();
        assert_eq!(bon.len(), 80);
        let request = Request {
            prompt: 1,
            node: 0,
            prefix: Vec::new(),
            first: 0,
            samples: 80,
        };
        for (i, r) in bon.iter().enumerate() {
            assert_eq!(**r, world.response(&request, i));
        }
        let best = f.best_of_n_best().unwrap();
        assert!(bon.iter().all(|r| r.reward <= best.1.reward) && bon[best.0] == best.1);
        // The search's own responses are not counted twice.
        let extra = if f.chosen == 0 {
            80 - f.nodes[0].responses.len()
        } else {
            60
        };
        assert_eq!((f.beyond.as_ref().unwrap().len(), f.budget_used()), (extra, 80));
        // Without the comparison the search is the same.
        let plain = search(&mut World::new(seed), &[1], &settings(80, Asked::default())).unwrap();
        assert_eq!(plain[0].nodes, f.nodes);
        assert!(plain[0].best_of_n().is_none());
    }
}

#[test]
fn responses_that_all_ended_make_it_best_of_n() {
    let mut world = World::new(1);
    world.letters = 1; // every response is one stop token
    let s = Settings {
        compare_bon: true,
        ..settings(60, Asked::default())
    };
    let f = search(&mut world, &[0], &s).unwrap().remove(0);
    assert_eq!((f.nodes.len(), f.chosen, f.ended, f.budget_used()), (1, 0, 2, 60));
    assert_eq!(f.nodes[0].tail.sigma, 0.0);
    assert_eq!((world.drawn[&0], f.best_of_n().unwrap().count()), (60, 60));
    // One round for the roots, none for states, one for the rest, none for best-of-N.
    assert_eq!(world.calls.len(), 2);
}

#[test]
fn identical_beginnings_are_one_state() {
    let mut world = World::new(2);
    world.letters = 3;
    let s = Settings {
        prefix_tokens: Some(1),
        ..settings(200, asked(20, 9))
    };
    let f = search(&mut world, &[0], &s).unwrap().remove(0);
    let states: Vec<&[u32]> = f.nodes[1..].iter().map(|n| n.prefix.as_slice()).collect();
    // Two letters do not end a response.
    assert!(
        states.len() <= 2 && f.merged + f.ended + states.len() == 9,
        "{states:?}"
    );
    assert_eq!(f.budget_used(), 200);
}

#[test]
fn a_reward_that_is_not_finite_is_named() {
    for (bad, place) in [
        (3, "node 0: the reward of sample 3"),
        (25, "node 1: the reward of sample 5"),
    ] {
        let mut world = World::new(4);
        world.bad = Some(bad);
        let e = search(&mut world, &[6], &settings(60, Asked::default())).unwrap_err();
        assert!(
            e.to_string().contains("prompt 7") && e.to_string().contains(place),
            "{e}"
        );
        assert_eq!(e.exit_code(), 2);
    }
    let zero = Settings {
        prefix_tokens: Some(0),
        ..settings(60, Asked::default())
    };
    let e = search(&mut World::new(1), &[0], &zero).unwrap_err();
    assert!(e.to_string().contains("--prefix-tokens"), "{e}");
}
