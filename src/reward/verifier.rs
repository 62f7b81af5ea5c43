//! Rewards that are computed from the texts alone.

use super::{Item, Reward, check_finite};
use crate::demo;
use crate::error::Result;
use crate::text::PromptContent;

/// The demo instruction set's true score, in [0, 1].
#[derive(Debug, Clone, Copy, Default)]
pub struct DemoScore;

impl Reward for DemoScore {
    fn name(&self) -> &str {
        "true_score"
    }

    fn score(&mut self, items: &[Item<'_>]) -> Result<Vec<f64>> {
        let rewards = items
            .iter()
            .map(|item| match item.prompt {
                PromptContent::Text(text) => demo::score(text, item.response),
                PromptContent::Messages(turns) => {
                    demo::score(turns.last().map_or("", |m| m.content.as_str()), item.response)
                }
            })
            .collect::<Result<Vec<f64>>>()?;
        check_finite(self.name(), items, &rewards)?;
        Ok(rewards)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::demo::{Split, generate};
    use crate::text::Message;

    #[test]
    fn right_answers_score_one_as_text_and_as_chat() {
        for example in generate(1, 6, Split::Train) {
            let text = PromptContent::Text(example.prompt.clone());
            let chat = PromptContent::Messages(vec![Message::user(example.prompt.as_str())]);
            let items = [
                (&text, example.answer.as_str()),
                (&chat, example.answer.as_str()),
                (&text, "~"),
            ]
            .map(|(prompt, response)| Item { prompt, response });
            let rewards = DemoScore.score(&items).unwrap();
            assert_eq!(rewards[..2], [1.0, 1.0], "{}", example.prompt);
            assert!(rewards[2] < 1.0);
        }
        let stranger = PromptContent::Text("tell me a joke".into());
        let error = DemoScore
            .score(&[Item {
                prompt: &stranger,
                response: "x",
            }])
            .unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
