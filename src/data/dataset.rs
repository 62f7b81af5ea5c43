//! The record types of every command's input.
//!
//! Unknown fields are ignored; a field that is null counts as absent.

use serde_json::{Map, Value};

use super::id::Id;
use super::json::parse_python_json;
use super::message::{ASSISTANT, Message, PromptContent};
use super::record::Record;
use super::row::Row;
use crate::config::range::LARGE;
use crate::error::{Error, Result, warn_once};

/// The columns that a conversation may stand in.
const CONVERSATIONS: [&str; 2] = ["messages", "conversations"];

/// A row of `train`, `generate` and `eval` prompts: `{"prompt": text}` or `{"messages": […]}` (ShareGPT's name is
/// `conversations`), with an optional `id`. `prompt` wins where a row has both. A conversation that ends with an answer is
/// asked without it.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptRecord {
    /// The row's `id` unchanged, or null.
    pub id: Id,
    /// What to answer.
    pub prompt: PromptContent,
    /// The row's other fields (answers, targets, …), which verifiers read.
    pub fields: Map<String, Value>,
}

impl Record for PromptRecord {
    const FORM: &'static str = r#"{"prompt": "…"} or {"messages": [{"role": "user", "content": "…"}]}"#;
    const COLUMNS: &'static [&'static str] = &["id", "prompt", "messages", "conversations"];
    const LEAVES_OUT: bool = true;

    fn from_row(row: &Row) -> Result<Self> {
        let names = ["prompt", CONVERSATIONS[0], CONVERSATIONS[1]];
        let name = names.into_iter().find(|n| row.get(n).is_some());
        let name = name.or_else(|| names.into_iter().find(|n| row.is_null(n)));
        let prompt = match name.unwrap_or("prompt") {
            "prompt" => row.prompt("prompt")?,
            conversation => PromptContent::Messages(row.messages(conversation)?),
        };
        Ok(Self {
            id: row.id()?,
            prompt: asked(prompt)?,
            fields: row.others(Self::COLUMNS),
        })
    }

    fn weight(row: &Row) -> u64 {
        row.weight(None)
    }
}

/// A prompt without the answers that its conversation ends with. What is left of one user turn is a text.
pub(super) fn asked(prompt: PromptContent) -> Result<PromptContent> {
    let PromptContent::Messages(mut turns) = prompt else {
        return Ok(prompt);
    };
    if !turns.last().is_some_and(Message::is_answer) {
        return Ok(PromptContent::Messages(turns));
    }
    let kept = turns
        .iter()
        .rposition(|turn| !turn.is_answer())
        .map_or(0, |at| at + 1);
    turns.truncate(kept);
    match <[Message; 1]>::try_from(turns) {
        Ok([only]) if only.role == "user" => Ok(PromptContent::Text(only.content)),
        Ok(only) => Ok(PromptContent::Messages(only.into())),
        Err(turns) if turns.is_empty() => Err(Error::unusable("the conversation holds answers only")),
        Err(turns) => Ok(PromptContent::Messages(turns)),
    }
}

/// The conversation that a row holds under one of its names.
fn conversation(row: &Row) -> Option<&'static str> {
    CONVERSATIONS.into_iter().find(|n| row.get(n).is_some())
}

/// A line of `sft`: `{"prompt", "response"}` (or `"completion"`), or `{"messages": […]}`; each may
/// have `"tools"`.
///
/// Of `messages` the prompt is what stands before the first assistant turn. All later turns are
/// kept, so that every assistant turn can be learned.
#[derive(Clone, Debug, PartialEq)]
pub struct SftRecord {
    /// The line's `id` unchanged, or null.
    pub id: Id,
    /// What is given.
    pub prompt: PromptContent,
    /// What follows: an assistant turn first, then turns of any role. Empty where the conversation
    /// has no assistant turn.
    pub turns: Vec<Message>,
    /// The tools that the assistant may call: JSON schemas, which the chat template writes.
    pub tools: Option<Value>,
}

impl Record for SftRecord {
    const FORM: &'static str = r#"{"prompt": "…", "response": "…"} or {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}"#;
    const COLUMNS: &'static [&'static str] = &[
        "id",
        "prompt",
        "response",
        "completion",
        "messages",
        "conversations",
        "tools",
    ];
    const LEAVES_OUT: bool = true;

    fn from_row(row: &Row) -> Result<Self> {
        // Nobody reads the id: one of another type does not stop a run.
        let (id, tools) = (row.id().unwrap_or_default(), tools(row)?);
        if let Some(name) = conversation(row) {
            let mut prompt = row.messages(name)?;
            let first = prompt.iter().position(Message::is_answer);
            let turns = prompt.split_off(first.unwrap_or(prompt.len()));
            let prompt = PromptContent::Messages(prompt);
            return Ok(Self {
                id,
                prompt,
                turns,
                tools,
            });
        }
        if row.get("prompt").is_none()
            && let Some(name) = CONVERSATIONS.into_iter().find(|n| row.is_null(n))
        {
            row.require(name)?;
        }
        Ok(Self {
            id,
            prompt: row.prompt("prompt")?,
            turns: vec![Message::assistant(answer(row, &["response", "completion"])?)],
            tools,
        })
    }
}

/// A line of `reward`: two answers to one prompt, one preferred.
///
/// Read from `{"prompt", "chosen", "rejected"}` with texts; with message lists, where the answers may or may not repeat the
/// prompt's turns and the prompt may be left out (their common beginning); and from Anthropic's HH files, whose answers
/// are whole dialogues written as `\n\nHuman: …\n\nAssistant: …` without a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct PreferenceRecord {
    /// The line's `id` unchanged, or null.
    pub id: Id,
    /// What was asked.
    pub prompt: PromptContent,
    /// The better answer.
    pub chosen: String,
    /// The worse answer.
    pub rejected: String,
}

impl Record for PreferenceRecord {
    const FORM: &'static str = r#"{"prompt": "…", "chosen": "…", "rejected": "…"}"#;
    const COLUMNS: &'static [&'static str] = &["id", "prompt", "chosen", "rejected"];
    const LEAVES_OUT: bool = true;

    fn from_row(row: &Row) -> Result<Self> {
        // Nobody reads the id: one of another type does not stop a run.
        let id = row.id().unwrap_or_default();
        let (chosen, rejected) = (row.prompt("chosen")?, row.prompt("rejected")?);
        let prompt = row.get("prompt").map(|_| row.prompt("prompt")).transpose()?;
        let (prompt, chosen, rejected) = match (prompt, chosen, rejected) {
            (Some(prompt), PromptContent::Text(chosen), PromptContent::Text(rejected)) => {
                (prompt, chosen, rejected)
            }
            (prompt, PromptContent::Messages(chosen), PromptContent::Messages(rejected)) => {
                let (before_chosen, chosen) = split_answer("chosen", chosen)?;
                let (before_rejected, rejected) = split_answer("rejected", rejected)?;
                let prompt = shared_prompt(prompt, before_chosen, before_rejected)?;
                (prompt, chosen, rejected)
            }
            (None, PromptContent::Text(chosen), PromptContent::Text(rejected)) => {
                let (before_chosen, chosen) = split_answer("chosen", dialogue("chosen", &chosen)?)?;
                let (before_rejected, rejected) = split_answer("rejected", dialogue("rejected", &rejected)?)?;
                alternates(&before_chosen)?;
                let prompt = shared_prompt(None, before_chosen, before_rejected)?;
                (prompt, chosen, rejected)
            }
            _ => {
                return Err(Error::user(
                    "\"chosen\" and \"rejected\" must both be texts or both be lists of messages",
                ));
            }
        };
        if chosen == rejected {
            warn_once("some preference pairs have two answers that are the same; they teach nothing");
        }
        Ok(Self {
            id,
            prompt,
            chosen,
            rejected,
        })
    }
}

/// A line of token ids: `{"id", "tokens"}`.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRecord {
    /// The line's `id` unchanged, or null.
    pub id: Id,
    /// At least one token id.
    pub tokens: Vec<u32>,
}

impl Record for TokenRecord {
    const FORM: &'static str = r#"{"id": "…", "tokens": [1, 2, 3]}"#;
    const COLUMNS: &'static [&'static str] = &["id", "tokens"];

    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.id()?,
            tokens: row.tokens("tokens")?,
        })
    }
}

/// What `score` reads the reward of.
#[derive(Clone, Debug, PartialEq)]
pub enum ScoreInput {
    /// Token ids as the model gets them.
    Tokens(Vec<u32>),
    /// A prompt and the answer to it.
    Pair {
        /// What was asked.
        prompt: PromptContent,
        /// The answer.
        response: String,
    },
    /// A whole conversation.
    Messages(Vec<Message>),
}

/// A line of `score`: `{"id", "tokens"}`, `{"id", "prompt", "response"}` or `{"id", "messages"}`; the first of these that a
/// line has counts.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreRecord {
    /// The line's `id` unchanged, or null.
    pub id: Id,
    /// What to score.
    pub input: ScoreInput,
}

impl Record for ScoreRecord {
    const FORM: &'static str = r#"{"id": "…", "prompt": "…", "response": "…"}, {"id": "…", "messages": […]} or {"id": "…", "tokens": [1, 2, 3]}"#;
    const COLUMNS: &'static [&'static str] = &[
        "id",
        "tokens",
        "prompt",
        "response",
        "completion",
        "messages",
        "conversations",
    ];

    fn from_row(row: &Row) -> Result<Self> {
        let input = if row.get("tokens").is_some() {
            ScoreInput::Tokens(row.tokens("tokens")?)
        } else if let (None, Some(name)) = (row.get("prompt"), conversation(row)) {
            ScoreInput::Messages(row.messages(name)?)
        } else {
            ScoreInput::Pair {
                prompt: row.prompt("prompt")?,
                response: answer(row, &["response", "completion"])?,
            }
        };
        Ok(Self { id: row.id()?, input })
    }
}

/// What `logprobs` reads the probability of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogprobsInput {
    /// Token ids as the model gets them.
    Tokens(Vec<u32>),
    /// Two texts, never wrapped in a chat template, tokenised separately.
    Pair {
        /// The text before.
        prompt: String,
        /// The text after it.
        completion: String,
    },
}

/// A line of `logprobs`: `{"id", "tokens"}` or `{"id", "prompt", "completion"}`; tokens count where a line has both.
#[derive(Clone, Debug, PartialEq)]
pub struct LogprobsRecord {
    /// The line's `id` unchanged, or null.
    pub id: Id,
    /// What to read.
    pub input: LogprobsInput,
}

impl Record for LogprobsRecord {
    const FORM: &'static str =
        r#"{"id": "…", "tokens": [1, 2, 3]} or {"id": "…", "prompt": "…", "completion": "…"}"#;
    const COLUMNS: &'static [&'static str] = &["id", "tokens", "prompt", "completion", "response"];

    fn from_row(row: &Row) -> Result<Self> {
        let input = if row.get("tokens").is_some() {
            LogprobsInput::Tokens(row.tokens("tokens")?)
        } else {
            LogprobsInput::Pair {
                prompt: row.text("prompt")?,
                completion: answer(row, &["completion", "response"])?,
            }
        };
        Ok(Self { id: row.id()?, input })
    }
}

/// A line of `gradient`: `{"tokens", "prompt_len", "weight"}`.
#[derive(Clone, Debug, PartialEq)]
pub struct GradientRecord {
    /// The line's `id` unchanged, or null.
    pub id: Id,
    /// Prompt and completion, at least one token.
    pub tokens: Vec<u32>,
    /// How many of them are the prompt: 1 … `tokens.len()`.
    pub prompt_len: usize,
    /// The factor of the completion's log-probability; finite.
    pub weight: f64,
}

impl Record for GradientRecord {
    const FORM: &'static str = r#"{"tokens": [1, 2, 3], "prompt_len": 1, "weight": 1.0}"#;
    const COLUMNS: &'static [&'static str] = &["id", "tokens", "prompt_len", "weight"];

    fn from_row(row: &Row) -> Result<Self> {
        let tokens = row.tokens("tokens")?;
        let prompt_len = row.count("prompt_len")?;
        if prompt_len == 0 || prompt_len > tokens.len() {
            return Err(Error::user(format!(
                "\"prompt_len\" is {prompt_len}, but must be from 1 to the number of tokens, {} (nothing comes before the first \
                 token, so it has no probability)",
                tokens.len()
            )));
        }
        let weight = row.number("weight")?;
        if weight.abs() > LARGE {
            return Err(Error::user(format!(
                "\"weight\" is {weight:e}, but must be from -{LARGE:e} to {LARGE:e}: gradients are float32"
            )));
        }
        Ok(Self {
            id: row.id()?,
            tokens,
            prompt_len,
            weight,
        })
    }
}

/// The answer under the first of `names` that the line has: a text, or a list of one assistant message.
fn answer(row: &Row, names: &[&str]) -> Result<String> {
    let given = names.iter().find(|n| row.get(n).is_some());
    let null = || names.iter().find(|n| row.is_null(n));
    let name = given.or_else(null).unwrap_or(&names[0]);
    match row.prompt(name)? {
        PromptContent::Text(text) => Ok(text),
        PromptContent::Messages(turns) => match split_answer(name, turns)? {
            (before, text) if before.is_empty() => Ok(text),
            _ => Err(Error::user(format!(
                "\"{name}\" must be a text or one assistant message"
            ))),
        },
    }
}

/// The optional field `tools`: a list, or the text of one as JSON (a Parquet column cannot hold
/// schemas that differ). An empty list is none.
fn tools(row: &Row) -> Result<Option<Value>> {
    let list = match row.get("tools") {
        None => return Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Value::String(text)) => parse_python_json(text).ok(),
        Some(other) => Some(other.clone()),
    };
    match list {
        Some(Value::Null) => Ok(None),
        Some(Value::Array(list)) => Ok((!list.is_empty()).then_some(Value::Array(list))),
        _ => Err(Error::user(
            "\"tools\" must be a list of tools as JSON schemas, or the text of such a list",
        )),
    }
}

/// Takes the last turn, which must be the assistant's, off a conversation.
fn split_answer(name: &str, mut turns: Vec<Message>) -> Result<(Vec<Message>, String)> {
    match turns.pop() {
        Some(last) if last.role == ASSISTANT => Ok((turns, last.content)),
        last => Err(Error::unusable(format!(
            "\"{name}\" must end with a message of the role \"assistant\", found {:?}",
            last.map_or("none".to_owned(), |m| m.role)
        ))),
    }
}

/// The prompt of a preference pair whose answers are conversations.
fn shared_prompt(
    prompt: Option<PromptContent>,
    chosen: Vec<Message>,
    rejected: Vec<Message>,
) -> Result<PromptContent> {
    if chosen != rejected {
        return Err(Error::unusable(
            "\"chosen\" and \"rejected\" must be the same up to their last turn: they answer one prompt",
        ));
    }
    let Some(prompt) = prompt else {
        return if chosen.is_empty() {
            Err(Error::unusable(
                "missing field \"prompt\": the answers hold no turn before the assistant's last",
            ))
        } else {
            Ok(PromptContent::Messages(chosen))
        };
    };
    // The answers' turns are the whole context where they hold any (a system turn may be in them alone).
    match (&prompt, chosen.is_empty()) {
        (_, true) => Ok(prompt),
        (PromptContent::Messages(turns), false) if chosen.starts_with(turns) || turns.is_empty() => {
            Ok(PromptContent::Messages(chosen))
        }
        (PromptContent::Text(text), false) if chosen.iter().any(|m| m.content == *text) => {
            Ok(PromptContent::Messages(chosen))
        }
        _ => Err(Error::unusable(
            "\"prompt\" does not occur in the turns before the answer: the line contradicts itself",
        )),
    }
}

/// Refuses a dialogue in which one side speaks twice in a row, as a few of Anthropic's do: templates refuse it too.
fn alternates(turns: &[Message]) -> Result<()> {
    let roles = ["user", "assistant"].iter().cycle();
    match turns.iter().zip(roles).all(|(turn, role)| turn.role == *role) {
        true => Ok(()),
        false => Err(Error::unusable(
            "the turns do not alternate between user and assistant",
        )),
    }
}

/// Anthropic HH's way of writing a dialogue in one text.
fn dialogue(name: &str, text: &str) -> Result<Vec<Message>> {
    const MARKS: [(&str, &str); 2] = [("\n\nHuman:", "user"), ("\n\nAssistant:", "assistant")];
    let mut cuts: Vec<(usize, &str, &str)> = MARKS
        .iter()
        .flat_map(|&(mark, role)| text.match_indices(mark).map(move |(at, _)| (at, mark, role)))
        .collect();
    cuts.sort_unstable();
    if cuts.first().is_none_or(|&(at, ..)| at != 0) {
        return Err(Error::unusable(format!(
            "missing field \"prompt\", and \"{name}\" is no dialogue in the form \"\\n\\nHuman: …\\n\\nAssistant: …\""
        )));
    }
    let ends = cuts.iter().skip(1).map(|cut| cut.0).chain([text.len()]);
    let turns = cuts.iter().zip(ends).map(|(&(at, mark, role), end)| Message {
        role: role.to_owned(),
        content: text[at + mark.len()..end].trim().to_owned(),
    });
    Ok(turns.collect())
}

#[cfg(test)]
#[path = "dataset_tests.rs"]
mod tests;
