//! Whether bytes are those that an etag is the hash of.

use std::io::{self, Read};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::names::Etag;

/// Bytes read at once.
const PIECE: usize = 256 << 10;

/// What is wrong with `total` bytes that should have this hash, in words; `None` where nothing is.
///
/// # Errors
/// They cannot be read.
pub(super) fn mismatch(mut bytes: impl Read, total: u64, etag: &Etag) -> io::Result<Option<String>> {
    // Git hashes a file with its length before it. Some proxies name files by the SHA-1 of their bytes alone.
    let mut git = Sha1::new_with_prefix(format!("blob {total}\0"));
    let (mut plain, mut sha256) = (Sha1::new(), Sha256::new());
    let (mut piece, mut counted) = (vec![0; PIECE], 0u64);
    loop {
        let n = bytes.read(&mut piece)?;
        if n == 0 {
            break;
        }
        counted += n as u64;
        if etag.is_sha256() {
            sha256.update(&piece[..n]);
        } else {
            git.update(&piece[..n]);
            plain.update(&piece[..n]);
        }
    }
    if counted != total {
        return Ok(Some(format!("{counted} bytes are there, where it has {total}")));
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let (kind, hashes) = match etag.is_sha256() {
        true => ("SHA-256", vec![hex(&sha256.finalize())]),
        false => ("Git's SHA-1", vec![hex(&git.finalize()), hex(&plain.finalize())]),
    };
    let matches = hashes.iter().any(|h| h == etag.as_str());
    Ok((!matches).then(|| {
        format!(
            "its {kind} is {}, where the hub says {}",
            hashes[0],
            etag.as_str()
        )
    }))
}
