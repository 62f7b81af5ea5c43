//! What makes two prompts the same prompt: a hash of their content.

use sha2::{Digest, Sha256};

use super::message::PromptContent;

/// SHA-256 of bytes, as lower-case hexadecimal.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |n: u8| char::from(DIGITS[usize::from(n)]);
    Sha256::digest(bytes)
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

impl PromptContent {
    /// The prompt's key: SHA-256 (hexadecimal) of its canonical JSON, which is the text as a JSON string, or the
    /// conversation as `[{"role":…,"content":…},…]` without spaces. Ids and other fields of its line do not count.
    #[must_use]
    pub fn key(&self) -> String {
        let json = match self {
            Self::Text(text) => serde_json::Value::from(text.as_str()),
            Self::Messages(turns) => turns
                .iter()
                .map(|turn| serde_json::json!({"role": turn.role, "content": turn.content}))
                .collect(),
        };
        sha256_hex(json.to_string().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Message;

    #[test]
    fn a_key_is_the_hash_of_the_canonical_json() {
        // printf '"a \\"b\\""' | sha256sum, and of [{"role":"user","content":"é"}].
        let text = PromptContent::Text("a \"b\"".into());
        assert_eq!(text.key(), sha256_hex(br#""a \"b\"""#));
        let chat = PromptContent::Messages(vec![Message::user("é")]);
        assert_eq!(
            chat.key(),
            sha256_hex("[{\"role\":\"user\",\"content\":\"é\"}]".as_bytes())
        );
        assert_ne!(chat.key(), PromptContent::Text("é".into()).key());
        // FIPS 180-4, the message "abc".
        assert_eq!(
            sha256_hex(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
