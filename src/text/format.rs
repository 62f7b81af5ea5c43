//! Records → token ids: where a chat template applies and where it does not.

use super::chat::TemplateDate;
use super::fewest::Encoded;
use super::tokenizer::Tokenizer;
use crate::data::{LogprobsInput, Message, PromptContent, ScoreInput};
use crate::error::{Error, Result};
use serde_json::Value;

/// Turns records into one model's token ids.
///
/// Prompt and completion are tokenised separately, so that a completion's tokens are the ones a policy could have sampled
/// after that prompt. A text the template rendered already holds its special tokens and gets no second BOS.
#[derive(Clone, Copy, Debug)]
pub struct Formatter<'a> {
    /// The model's tokenizer; its template is the one that counts, also for a reward model that scores another's text.
    pub tokenizer: &'a Tokenizer,
    /// Do not wrap texts in the chat template (`--raw`).
    pub raw: bool,
    /// What the template takes for today.
    pub date: TemplateDate,
    /// The most tokens that are of use, such as the model's context. A text that has more by its bytes alone is not
    /// tokenised.
    pub most: usize,
}

impl Formatter<'_> {
    /// Whether a text prompt becomes a user turn.
    #[must_use]
    pub fn wraps(&self) -> bool {
        !self.raw && self.tokenizer.chat_template().is_some()
    }

    /// The ids a policy continues: a text as one user turn with the assistant's turn opened, or, raw or without a
    /// template, the text itself with the model's BOS. At least one id.
    ///
    /// # Errors
    /// A user error when messages meet a model without a template, the template refuses them, or no token comes out.
    pub fn prompt(&self, prompt: &PromptContent) -> Result<Encoded> {
        self.prompt_with(prompt, None)
    }

    fn prompt_with(&self, prompt: &PromptContent, tools: Option<&Value>) -> Result<Encoded> {
        let ids = match prompt {
            PromptContent::Text(text) if !self.wraps() => self.encode(text, true)?,
            _ => {
                let text = self.render(&prompt.to_messages(), tools, true)?;
                self.encode(&text, false)?
            }
        };
        if ids.count().tokens == 0 {
            return Err(Error::user(
                "the prompt is empty and the model has no begin-of-text token: give at least one character",
            ));
        }
        Ok(ids)
    }

    /// The ids of a completion's text, nothing added.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn completion(&self, text: &str) -> Result<Encoded> {
        self.encode(text, false)
    }

    fn encode(&self, text: &str, add_special: bool) -> Result<Encoded> {
        self.tokenizer.encode_within(text, add_special, self.most)
    }

    /// The ids of the prompt and of the response a policy should learn, which ends with the token that ends a turn: the
    /// one the template writes after the response, else the tokenizer's own end token. What a template writes after that
    /// token (a newline, say) is left out, because sampling stops before it. The template sees
    /// `tools`.
    ///
    /// A turn that is too long with what the template writes after its end is too long.
    ///
    /// # Errors
    /// As [`Formatter::prompt`].
    pub fn target(
        &self,
        prompt: &PromptContent,
        response: &str,
        tools: Option<&Value>,
    ) -> Result<(Encoded, Encoded)> {
        let before = self.prompt_with(prompt, tools)?;
        let mut ids = Vec::new();
        if self.wraps() || matches!(prompt, PromptContent::Messages(_)) {
            let mut messages = prompt.to_messages();
            let opened = self.render(&messages, tools, true)?;
            messages.push(Message::assistant(response));
            if let Some(turn) = self.render(&messages, tools, false)?.strip_prefix(&opened) {
                ids = match self.encode(turn, false)? {
                    Encoded::Ids(ids) => ids,
                    too_long => return Ok((before, too_long)),
                };
                let ends = self.tokenizer.eos_ids();
                let end = ids.iter().rposition(|id| ends.contains(id));
                ids.truncate(end.map_or(0, |end| end + 1));
            }
        }
        if ids.is_empty() {
            ids = match self.encode(response, false)? {
                Encoded::Ids(ids) => ids,
                too_long => return Ok((before, too_long)),
            };
            ids.extend(self.tokenizer.eos_id());
        }
        if ids.is_empty() {
            return Err(Error::user(
                "the response is empty and the model has no end token: there is nothing to learn",
            ));
        }
        Ok((before, Encoded::Ids(ids)))
    }

    /// The ids a reward model reads: the conversation with the response as the assistant's turn, in this model's own
    /// template; raw or without a template, the prompt's ids followed by the response's.
    ///
    /// # Errors
    /// As [`Formatter::prompt`].
    pub fn scored(&self, prompt: &PromptContent, response: &str) -> Result<Encoded> {
        if !self.wraps() && matches!(prompt, PromptContent::Text(_)) {
            let prompt = self.prompt(prompt)?;
            return Ok(prompt.then(self.completion(response)?));
        }
        let mut messages = prompt.to_messages();
        messages.push(Message::assistant(response));
        self.conversation(&messages)
    }

    /// The ids of a whole conversation in the model's template, no turn opened after it.
    ///
    /// # Errors
    /// A user error when the model has no template or the template refuses the conversation.
    pub fn conversation(&self, messages: &[Message]) -> Result<Encoded> {
        self.encode(&self.render(messages, None, false)?, false)
    }

    /// The ids of a line of `score`.
    ///
    /// # Errors
    /// As [`Formatter::scored`].
    pub fn score_input(&self, input: &ScoreInput) -> Result<Encoded> {
        match input {
            ScoreInput::Tokens(ids) => Ok(Encoded::Ids(ids.clone())),
            ScoreInput::Pair { prompt, response } => self.scored(prompt, response),
            ScoreInput::Messages(messages) => self.conversation(messages),
        }
    }

    /// The ids of a line of `logprobs`, which is never wrapped, whatever `raw` says.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn logprobs_input(&self, input: &LogprobsInput) -> Result<Encoded> {
        match input {
            LogprobsInput::Tokens(ids) => Ok(Encoded::Ids(ids.clone())),
            LogprobsInput::Pair { prompt, completion } => {
                let prompt = self.encode(prompt, true)?;
                Ok(prompt.then(self.completion(completion)?))
            }
        }
    }

    fn render(
        &self,
        messages: &[Message],
        tools: Option<&Value>,
        add_generation_prompt: bool,
    ) -> Result<String> {
        let template = self.tokenizer.chat_template().ok_or_else(|| {
            Error::user(
                "the model has no chat template, so it cannot read \"messages\": give {\"prompt\": \"…\"}, or put the template into \
                 a file chat_template.jinja in the model's directory",
            )
        })?;
        template.render_with(messages, tools, add_generation_prompt, self.date)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::text::tokenizer::tests::files;

    const PLAIN: &str = r#"{"bos_token": "<s>", "eos_token": "</s>"}"#;
    // user turns: <s>TEXT!; the assistant's: TEXT</s> and a space
    const CHAT: &str = r#"{"bos_token": "<s>", "eos_token": "</s>", "chat_template":
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ '!' if m.role == 'user' else '</s> ' }}{% endfor %}{% if add_generation_prompt %}h{% endif %}"}"#;
    const OTHER_PREFIX: &str = r#"{"eos_token": "</s>", "chat_template":
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}h{% endif %}"}"#;

    fn ids(encoded: Result<Encoded>) -> Vec<u32> {
        encoded.unwrap().ids().unwrap()
    }

    fn target(f: Formatter<'_>, prompt: &PromptContent, response: &str) -> (Vec<u32>, Vec<u32>) {
        let (prompt, response) = f.target(prompt, response, None).unwrap();
        (ids(Ok(prompt)), ids(Ok(response)))
    }

    fn text(prompt: &str) -> PromptContent {
        PromptContent::Text(prompt.to_owned())
    }

    fn with<T>(config: &'static str, raw: bool, run: impl FnOnce(Formatter<'_>) -> T) -> T {
        let tokenizer = Tokenizer::from_hf(&files(config)).unwrap();
        let date = "2026-07-05".parse().unwrap();
        run(Formatter {
            tokenizer: &tokenizer,
            raw,
            date,
            most: usize::MAX,
        })
    }

    #[test]
    fn texts_are_wrapped_unless_raw_or_without_template() {
        with(CHAT, false, |f| {
            assert_eq!(ids(f.prompt(&text("c"))), [11, 2, 10, 7])
        });
        with(CHAT, true, |f| assert_eq!(ids(f.prompt(&text("c"))), [11, 2]));
        with(PLAIN, false, |f| assert_eq!(ids(f.prompt(&text("c"))), [11, 2]));
        let turns = PromptContent::Messages(vec![Message::user("c")]);
        with(CHAT, true, |f| assert_eq!(ids(f.prompt(&turns)), [11, 2, 10, 7]));
        let error = with(PLAIN, false, |f| f.prompt(&turns)).unwrap_err().to_string();
        assert!(error.contains("no chat template"), "{error}");
    }

    #[test]
    fn prompt_and_completion_are_tokenised_separately() {
        with(PLAIN, false, |f| {
            assert_eq!(f.tokenizer.encode("ab", false).unwrap(), [9]);
            assert_eq!(ids(f.scored(&text("a"), "b")), [11, 0, 1]);
            let pair = LogprobsInput::Pair {
                prompt: "a".to_owned(),
                completion: "b".to_owned(),
            };
            assert_eq!(ids(f.logprobs_input(&pair)), [11, 0, 1]);
            assert_eq!(ids(f.completion("b")), [1]);
            assert_eq!(target(f, &text("a"), "b"), (vec![11, 0], vec![1, 12]));
        });
        with(CHAT, false, |f| {
            let pair = LogprobsInput::Pair {
                prompt: "a".to_owned(),
                completion: "b".to_owned(),
            };
            assert_eq!(ids(f.logprobs_input(&pair)), [11, 0, 1], "logprobs never wraps");
        });
    }

    #[test]
    fn a_learned_response_ends_with_the_turn() {
        // the template's space after </s> is not learned
        with(CHAT, false, |f| {
            let (prompt, response) = target(f, &text("a"), "b");
            // the opened turn's "h" is not in the closed rendering: the tokenizer's own end token
            assert_eq!((prompt, response), (vec![11, 0, 10, 7], vec![1, 12]));
        });
        let config = r#"{"eos_token": "</s>", "chat_template":
            "{% for m in messages %}{% if m.role == 'assistant' %}h{{ m.content }}</s> {% else %}{{ m.content }}!{% endif %}{% endfor %}{% if add_generation_prompt %}h{% endif %}"}"#;
        with(config, false, |f| {
            assert_eq!(target(f, &text("a"), "b"), (vec![0, 10, 7], vec![1, 12]));
            assert_eq!(ids(f.scored(&text("a"), "b")), [0, 10, 7, 1, 12, 8]);
        });
        with(OTHER_PREFIX, false, |f| {
            assert_eq!(target(f, &text("a"), "b"), (vec![0, 7], vec![1, 12]));
        });
    }

    #[test]
    fn rewards_read_the_whole_conversation() {
        with(CHAT, false, |f| {
            assert_eq!(ids(f.scored(&text("a"), "b")), [11, 0, 10, 1, 12, 8]);
            let turns = vec![Message::user("a"), Message::assistant("b")];
            let want = ids(f.scored(&text("a"), "b"));
            assert_eq!(ids(f.score_input(&ScoreInput::Messages(turns))), want);
            assert_eq!(ids(f.score_input(&ScoreInput::Tokens(vec![3]))), [3]);
        });
    }

    #[test]
    fn nothing_to_continue_is_an_error() {
        with(r#"{"eos_token": "</s>"}"#, false, |f| {
            assert_eq!(ids(f.prompt(&text(""))), [11])
        });
        let config = r#"{"chat_template": "{{ '' }}"}"#;
        let error = with(config, false, |f| f.prompt(&text("a"))).unwrap_err();
        assert!(error.to_string().contains("prompt is empty"), "{error}");
    }
}
