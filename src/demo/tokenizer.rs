//! The embedded models' tokenizer: one token a character, in Hugging Face's files.

use serde_json::{Value, json};

/// Padding; never in a sequence that is trained on.
pub const PAD: &str = "<|pad|>";
/// What a character outside the vocabulary becomes.
pub const UNK: &str = "<|unk|>";
/// Opens a user turn.
pub const USER: &str = "<|user|>";
/// Opens the assistant's turn.
pub const ASSISTANT: &str = "<|assistant|>";
/// Ends the assistant's turn: the end-of-sequence token.
pub const END: &str = "<|end|>";

/// The chat template (Jinja): `<|user|>…<|assistant|>…<|end|>`; a system message reads as a user turn.
pub const CHAT_TEMPLATE: &str = "{%- for message in messages -%}\
{%- if message['role'] == 'assistant' -%}{{ '<|assistant|>' + message['content'] + '<|end|>' }}\
{%- else -%}{{ '<|user|>' + message['content'] }}\
{%- endif -%}\
{%- endfor -%}\
{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}";

/// The tokens in the order of their ids: special tokens, newline, printable ASCII.
pub fn vocabulary() -> Vec<String> {
    let special = [PAD, UNK, USER, ASSISTANT, END].map(String::from);
    let plain = std::iter::once('\n').chain(' '..='~').map(String::from);
    special.into_iter().chain(plain).collect()
}

/// `tokenizer.json`: a BPE without merges, so that every character is its own token, and a decoder that joins them.
pub fn tokenizer_json() -> Vec<u8> {
    let tokens = vocabulary();
    let added: Vec<Value> = [PAD, UNK, USER, ASSISTANT, END]
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let vocab: serde_json::Map<String, Value> = tokens
        .into_iter()
        .enumerate()
        .map(|(id, token)| (token, json!(id)))
        .collect();
    pretty(&json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": UNK,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": []
        }
    }))
}

/// `tokenizer_config.json`, with the chat template; `max_length` is the model's context in tokens.
pub fn tokenizer_config_json(max_length: usize) -> Vec<u8> {
    pretty(&json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "add_bos_token": false,
        "bos_token": null,
        "eos_token": END,
        "pad_token": PAD,
        "unk_token": UNK,
        "clean_up_tokenization_spaces": false,
        "chat_template": CHAT_TEMPLATE,
    }))
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = format!("{value:#}");
    text.push('\n');
    text.into_bytes()
}
