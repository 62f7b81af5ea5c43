//! A conversation's turns, and a prompt.

use serde::{Deserialize, Serialize};

/// The role whose turns a policy writes.
pub const ASSISTANT: &str = "assistant";

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or another role the model's template knows.
    pub role: String,
    /// The turn's text.
    pub content: String,
}

impl Message {
    /// A turn of the role `user`.
    pub fn user(content: impl Into<String>) -> Self {
        Self {
            role: "user".to_owned(),
            content: content.into(),
        }
    }

    /// A turn of the role `assistant`.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self {
            role: ASSISTANT.to_owned(),
            content: content.into(),
        }
    }

    /// Whether the assistant says it.
    pub(super) fn is_answer(&self) -> bool {
        self.role == ASSISTANT
    }
}

/// A prompt as a file gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptContent {
    /// A text: one user turn for a model with a chat template, unless raw text was asked for.
    Text(String),
    /// A conversation.
    Messages(Vec<Message>),
}

impl PromptContent {
    /// The conversation: a text is one user turn.
    #[must_use]
    pub fn to_messages(&self) -> Vec<Message> {
        match self {
            Self::Text(text) => vec![Message::user(text.as_str())],
            Self::Messages(messages) => messages.clone(),
        }
    }
}
