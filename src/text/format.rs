//! Records → token ids: where a chat template applies and where it does not.

use super::chat::{Message, TemplateDate};
use super::dataset::{LogprobsInput, PromptContent, ScoreInput};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

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
    pub fn prompt(&self, prompt: &PromptContent) -> Result<Vec<u32>> {
        let ids = match prompt {
            PromptContent::Text(text) if !self.wraps() => self.tokenizer.encode(text, true)?,
            _ => {
                let text = self.render(&prompt.to_messages(), true)?;
                self.tokenizer.encode(&text, false)?
            }
        };
        if ids.is_empty() {
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
    pub fn completion(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(text, false)
    }

    /// The ids of the prompt and of the response a policy should learn, which ends with the token that ends a turn: the
    /// one the template writes after the response, else the tokenizer's own end token. What a template writes after that
    /// token (a newline, say) is left out, because sampling stops before it.
    ///
    /// # Errors
    /// As [`Formatter::prompt`].
    pub fn target(&self, prompt: &PromptContent, response: &str) -> Result<(Vec<u32>, Vec<u32>)> {
        let before = self.prompt(prompt)?;
        let mut ids = Vec::new();
        if self.wraps() || matches!(prompt, PromptContent::Messages(_)) {
            let mut messages = prompt.to_messages();
            let opened = self.render(&messages, true)?;
            messages.push(Message::assistant(response));
            if let Some(turn) = self.render(&messages, false)?.strip_prefix(&opened) {
                ids = self.tokenizer.encode(turn, false)?;
                let ends = self.tokenizer.eos_ids();
                let end = ids.iter().rposition(|id| ends.contains(id));
                ids.truncate(end.map_or(0, |end| end + 1));
            }
        }
        if ids.is_empty() {
            ids = self.tokenizer.encode(response, false)?;
            ids.extend(self.tokenizer.eos_id());
        }
        if ids.is_empty() {
            return Err(Error::user(
                "the response is empty and the model has no end token: there is nothing to learn",
            ));
        }
        Ok((before, ids))
    }

    /// The ids a reward model reads: the conversation with the response as the assistant's turn, in this model's own
    /// template; raw or without a template, the prompt's ids followed by the response's.
    ///
    /// # Errors
    /// As [`Formatter::prompt`].
    pub fn scored(&self, prompt: &PromptContent, response: &str) -> Result<Vec<u32>> {
        if !self.wraps() && matches!(prompt, PromptContent::Text(_)) {
            let mut ids = self.prompt(prompt)?;
            ids.extend(self.completion(response)?);
            return Ok(ids);
        }
        let mut messages = prompt.to_messages();
        messages.push(Message::assistant(response));
        self.conversation(&messages)
    }

    /// The ids of a whole conversation in the model's template, no turn opened after it.
    ///
    /// # Errors
    /// A user error when the model has no template or the template refuses the conversation.
    pub fn conversation(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.tokenizer.encode(&self.render(messages, false)?, false)
    }

    /// The ids of a line of `score`.
    ///
    /// # Errors
    /// As [`Formatter::scored`].
    pub fn score_input(&self, input: &ScoreInput) -> Result<Vec<u32>> {
        match input {
            ScoreInput::Tokens(ids) => Ok(ids.clone()),
            ScoreInput::Pair { prompt, response } => self.scored(prompt, response),
            ScoreInput::Messages(messages) => self.conversation(messages),
        }
    }

    /// The ids of a line of `logprobs`, which is never wrapped, whatever `raw` says.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn logprobs_input(&self, input: &LogprobsInput) -> Result<Vec<u32>> {
        match input {
            LogprobsInput::Tokens(ids) => Ok(ids.clone()),
            LogprobsInput::Pair { prompt, completion } => {
                let mut ids = self.tokenizer.encode(prompt, true)?;
                ids.extend(self.tokenizer.encode(completion, false)?);
                Ok(ids)
            }
        }
    }

    fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let template = self.tokenizer.chat_template().ok_or_else(|| {
            Error::user(
                "the model has no chat template, so it cannot read \"messages\": give {\"prompt\": \"…\"}, or put the template into \
                 a file chat_template.jinja in the model's directory",
            )
        })?;
        template.render(messages, add_generation_prompt, self.date)
    }
}
