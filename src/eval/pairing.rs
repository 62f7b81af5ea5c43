//! Which prompts of two evaluations are the same.

use std::borrow::Cow;
use std::collections::HashMap;

use super::store::{StoredEval, StoredPrompt};
use crate::error::{Error, Result};

/// `other` with its prompts and their completions in the order of `base`'s.
///
/// Prompts in one order pair as they stand. In another order they pair by key; where a key stands
/// for several, by key and id.
///
/// # Errors
/// A user error that names the first prompt the other side has not, or prompts that nothing tells
/// apart.
pub(super) fn aligned<'a>(
    (base_name, base): (&str, &StoredEval),
    (other_name, other): (&str, &'a StoredEval),
) -> Result<Cow<'a, StoredEval>> {
    let (a, b) = (&base.prompts, &other.prompts);
    if a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.key == b.key) {
        return Ok(Cow::Borrowed(other));
    }
    same_set((base_name, a), (other_name, b))?;
    let by_key = |p: &StoredPrompt| (p.key.clone(), String::new());
    let by_id = |p: &StoredPrompt| (p.key.clone(), p.id.to_string());
    let order = match order(a, b, &by_key) {
        Some(order) => order,
        None => order(a, b, &by_id).ok_or_else(|| twice((base_name, a), (other_name, b)))?,
    };
    let prompts = order
        .iter()
        .enumerate()
        .map(|(prompt_index, &from)| StoredPrompt {
            prompt_index,
            ..b[from].clone()
        });
    let groups = order.iter().enumerate().map(|(prompt_index, &from)| {
        let mut group = other.completions[from].clone();
        group.iter_mut().for_each(|c| c.prompt_index = prompt_index);
        group
    });
    Ok(Cow::Owned(StoredEval {
        meta: other.meta.clone(),
        prompts: prompts.collect(),
        completions: groups.collect(),
    }))
}

type Name = (String, String);

/// Where each prompt of `a` stands in `b`; `None` where names repeat or differ.
fn order(a: &[StoredPrompt], b: &[StoredPrompt], name: &dyn Fn(&StoredPrompt) -> Name) -> Option<Vec<usize>> {
    let mut places: HashMap<Name, usize> = HashMap::new();
    for (i, prompt) in b.iter().enumerate() {
        if places.insert(name(prompt), i).is_some() {
            return None;
        }
    }
    // What is taken is gone: a name that repeats in `a` is missing the second time.
    a.iter().map(|prompt| places.remove(&name(prompt))).collect()
}

type Side<'a> = (&'a str, &'a [StoredPrompt]);

/// Refuses sides of which one has a prompt that the other has not, or has it more often.
fn same_set((base, a): Side<'_>, (other, b): Side<'_>) -> Result<()> {
    let same = "compare evaluations of the same prompts";
    let lone = |of: &[StoredPrompt], against: &[StoredPrompt]| {
        let mut left: HashMap<&str, usize> = HashMap::new();
        for prompt in against {
            *left.entry(&prompt.key).or_default() += 1;
        }
        of.iter()
            .position(|prompt| match left.get_mut(prompt.key.as_str()) {
                Some(n) if *n > 0 => {
                    *n -= 1;
                    false
                }
                _ => true,
            })
    };
    let (only_a, only_b) = (lone(a, b), lone(b, a));
    if a.len() != b.len() {
        let (longer, prompts, at) = if a.len() > b.len() {
            (base, a, only_a)
        } else {
            (other, b, only_b)
        };
        let at = at.unwrap_or_default();
        return Err(Error::user(format!(
            "{base} has {} prompts and {other} has {}: the first that only {longer} has is number {at}, with the key {}; {same}",
            a.len(),
            b.len(),
            prompts[at].key
        )));
    }
    match (only_a, only_b) {
        (Some(mine), Some(theirs)) => Err(Error::user(format!(
            "prompt {theirs} of {other}, with the key {}, is none of {base}'s, and prompt {mine} of {base}, with the key {}, is \
             none of {other}'s; {same}",
            shown(&b[theirs].key),
            shown(&a[mine].key),
        ))),
        _ => Ok(()),
    }
}

fn shown(key: &str) -> &str {
    key.get(..12).unwrap_or(key)
}

/// The error for prompts that stand several times, in different orders.
fn twice((base, a): Side<'_>, (other, _): Side<'_>) -> Error {
    let again = |i: &usize| a[..*i].iter().any(|p| p.key == a[*i].key);
    let at = (0..a.len()).find(again).unwrap_or_default();
    let first = a.iter().position(|p| p.key == a[at].key).unwrap_or_default();
    Error::user(format!(
        "prompts {first} and {at} of {base} are the same prompt, and {other} has the prompts in another order: which of its \
         responses belong to which cannot be told. Give such prompts ids of their own, the same in both files, or evaluate \
         them in the same order"
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::eval::store::{StoredCompletion, VERSION};
    use crate::rollout::Finish;
    use crate::text::PromptContent;
    use serde_json::{Value, json};

    /// An evaluation of these prompts (text and id), whose one response repeats the text and id.
    fn eval(prompts: &[(&str, Value)]) -> StoredEval {
        let meta = json!({
            "version": VERSION, "model": "m", "reward_model": "r", "prompts_file": "p", "prompts_sha256": "",
            "num_prompts": prompts.len(), "samples": 1, "seed": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 0,
            "min_p": 0.0, "max_completion_length": 4
        });
        let completion = |(prompt_index, (text, id)): (usize, &(&str, Value))| StoredCompletion {
            prompt_index,
            sample: 0,
            text: format!("{text}{id}"),
            tokens: 1,
            finish_reason: Finish::Stop,
            reward: 0.0,
            also_reward: None,
        };
        let prompt = |(i, (text, id)): (usize, &(&str, Value))| {
            StoredPrompt::new(i, id.clone(), &PromptContent::Text((*text).into()))
        };
        StoredEval {
            meta: serde_json::from_value(meta).unwrap(),
            prompts: prompts.iter().enumerate().map(prompt).collect(),
            completions: prompts.iter().enumerate().map(|p| vec![completion(p)]).collect(),
        }
    }

    fn responses(eval: &StoredEval) -> Vec<&str> {
        eval.completions
            .iter()
            .map(|group| group[0].text.as_str())
            .collect()
    }

    #[test]
    fn prompts_in_another_order_pair_by_what_they_say() {
        let base = eval(&[("a", json!(1)), ("b", json!(2)), ("c", json!(3))]);
        // Ids by the order of the file say nothing about the prompt.
        let other = eval(&[("c", json!(1)), ("a", json!(2)), ("b", json!(3))]);
        let got = aligned(("x", &base), ("y", &other)).unwrap();
        assert_eq!(responses(&got), ["a2", "b3", "c1"]);
        assert_eq!(got.prompts[2].key, base.prompts[2].key);
        let indices: Vec<usize> = got.completions.iter().map(|g| g[0].prompt_index).collect();
        assert_eq!(indices, [0, 1, 2]);
        assert!(matches!(
            aligned(("x", &base), ("z", &base)).unwrap(),
            Cow::Borrowed(_)
        ));
    }

    #[test]
    fn repeated_prompts_pair_by_id_or_not_at_all() {
        let base = eval(&[("a", json!("p")), ("a", json!("q")), ("b", json!("r"))]);
        let other = eval(&[("b", json!("r")), ("a", json!("q")), ("a", json!("p"))]);
        let got = aligned(("x", &base), ("y", &other)).unwrap();
        assert_eq!(responses(&got), ["a\"p\"", "a\"q\"", "b\"r\""]);
        let nameless = |texts: &[&str]| {
            let prompts: Vec<_> = texts.iter().map(|t| (*t, Value::Null)).collect();
            eval(&prompts)
        };
        let (base, other) = (nameless(&["a", "b", "a"]), nameless(&["b", "a", "a"]));
        let error = aligned(("x", &base), ("y", &other)).unwrap_err().to_string();
        assert!(
            error.contains("prompts 0 and 2 of x") && error.contains("another order"),
            "{error}"
        );
        // In one order they pair as they stand.
        assert!(aligned(("x", &base), ("y", &base)).is_ok());
    }

    #[test]
    fn other_prompts_are_named() {
        let base = eval(&[("a", json!(1)), ("b", json!(2))]);
        for (other, parts) in [
            (
                eval(&[("c", json!(1)), ("a", json!(2))]),
                vec!["prompt 0 of y", "prompt 1 of x"],
            ),
            (
                eval(&[("b", json!(1))]),
                vec!["2 prompts and y has 1", "only x has is number 0"],
            ),
            (
                eval(&[("a", json!(1)), ("a", json!(2))]),
                vec!["prompt 1 of y", "prompt 1 of x"],
            ),
        ] {
            let error = aligned(("x", &base), ("y", &other)).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            for part in parts {
                assert!(error.to_string().contains(part), "{part:?} not in {error}");
            }
        }
    }
}
