//! What makes two prompts the same prompt: a hash of their content.

use std::io::Read;

use sha2::{Digest, Sha256};

use super::message::PromptContent;

/// SHA-256 of bytes, as lower-case hexadecimal.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As [`sha256_hex`], of what a reader gives, a piece at a time.
pub(super) fn sha256_of(mut reader: impl Read) -> std::io::Result<String> {
    let (mut hasher, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match reader.read(&mut piece)? {
            0 => return Ok(hex(&hasher.finalize())),
            n => hasher.update(&piece[..n]),
        }
    }
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
