//! A file's bytes: asked for from where an earlier try ended, counted and hashed before they enter the cache.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use super::address::Address;
use super::answer::{self, Fault, Metadata, Part, Trouble, failed};
use super::cache::own_file;
use super::client::{Client, Pace, Question, Tries, disk};
use super::hash::mismatch;
use crate::file::limits::Limit;
use crate::report::progress::Progress;

/// Bytes read at once.
const PIECE: usize = 256 << 10;
/// Bytes after which tries that failed before no longer count.
const HEADWAY: u64 = 8 << 20;
/// Bytes from which progress is shown.
const SHOWN: u64 = 8 << 20;
/// Time for a whole file, and bytes a second that add to it.
const TIME: (Duration, u64) = (Duration::from_secs(600), 16 << 10);

/// Why a try ended.
enum End {
    /// What is there so far may be kept for another one.
    Trouble(Trouble),
    /// It is of no use: why.
    Useless(String),
}

impl<T: Into<Trouble>> From<T> for End {
    fn from(trouble: T) -> Self {
        Self::Trouble(trouble.into())
    }
}

/// Downloads the file `name` into `path`, going on where an earlier try ended. When it returns, the file is whole, of the
/// size and hash that the hub said, and on the disk.
pub(super) fn download(
    client: &Client,
    metadata: &Metadata,
    name: &str,
    limit: &Limit,
    path: &Path,
) -> Result<(), Fault> {
    let length = || fs::symlink_metadata(path).map_or(0, |m| m.len());
    let mut tries = Tries::new();
    let mut again = true;
    let mut progress = None;
    let mut traffic = Traffic::default();
    let mut longest = length();
    loop {
        let end = match attempt(client, metadata, name, limit, path, &mut progress, &mut traffic) {
            Ok(()) => return Ok(()),
            Err(end) => end,
        };
        match end {
            // Once, whatever an earlier try left may have been at fault.
            End::Useless(why) => {
                let _ = fs::remove_file(path);
                if !again {
                    return Err(Fault::Failed(why));
                }
                log::warn!("hub: {name}: {why}; fetching it from its beginning");
                (again, longest) = (false, 0);
            }
            End::Trouble(trouble) => {
                if traffic.is_too_much() {
                    return Err(Fault::Failed(format!(
                        "{name}: {} bytes came for a file of {}, and it is not whole: the server sends the same bytes again and again",
                        traffic.received, traffic.total
                    )));
                }
                // Not what came again: a server could go on with that for ever.
                let now = length();
                if now.saturating_sub(longest) >= HEADWAY {
                    tries = Tries::new();
                    longest = now;
                }
                tries.another(trouble)?;
            }
        }
    }
}

/// What came for one file, whatever became of it.
#[derive(Default)]
struct Traffic {
    received: u64,
    total: u64,
}

impl Traffic {
    /// Whether it is as much as the file twice over. Servers that cannot go on in the middle of a file send it from its
    /// beginning.
    fn is_too_much(&self) -> bool {
        self.received > self.total.saturating_mul(2).saturating_add(HEADWAY)
    }
}

fn attempt(
    client: &Client,
    metadata: &Metadata,
    name: &str,
    limit: &Limit,
    path: &Path,
    progress: &mut Option<Progress>,
    traffic: &mut Traffic,
) -> Result<(), End> {
    let mut file = own_file(path).map_err(Fault::from)?;
    let mut have = file.metadata().map_err(disk(path))?.len();
    if let Some(size) = metadata.size {
        limit.check(name, size).map_err(Fault::from)?;
        if have > size {
            return Err(End::Useless(format!(
                "{have} bytes are there, where the hub says {size}"
            )));
        }
        if have == size {
            return finish(&mut file, path, metadata, size);
        }
    }
    let (response, at) = client.get(&Question::Bytes(have), &metadata.location)?;
    let head = answer::part(
        name,
        metadata.size,
        have,
        response.status().as_u16(),
        response.headers(),
        &at,
    )?;
    let Some(Part { begin, total }) = head else {
        return Err(End::Useless("the rest of it cannot be had".into()));
    };
    limit.check(name, total).map_err(Fault::from)?;
    traffic.total = total;
    if begin != have {
        // The server sends the file from its beginning, whatever it was asked.
        file.set_len(0).map_err(disk(path))?;
        file.rewind().map_err(disk(path))?;
        have = 0;
    }
    let progress = progress.get_or_insert_with(|| match total >= SHOWN {
        true => Progress::bytes(&format!("downloading {name}"), have, total),
        false => Progress::waiting(&format!("downloading {name}")),
    });
    let time = TIME.0.saturating_add(Duration::from_secs(total / TIME.1));
    let mut pace = Pace::new(client.patience(), time);
    let (mut reader, mut piece) = (response.into_body().into_reader(), vec![0; PIECE]);
    while have < total {
        // One byte more than is wanted, so that a longer file is noticed.
        let most = usize::try_from(total - have).map_or(PIECE, |left| PIECE.min(left.saturating_add(1)));
        let n = pace.read(&mut reader, &mut piece[..most], &at)?;
        if n == 0 {
            return Err(cut_short(&at, have, total).into());
        }
        traffic.received = traffic.received.saturating_add(n as u64);
        if have + n as u64 > total {
            return Err(longer(path, &at, total));
        }
        file.write_all(&piece[..n]).map_err(disk(path))?;
        have += n as u64;
        if total >= SHOWN {
            progress.step(have, &[]);
        }
    }
    // Where the end of the connection is the end of the file, there may be more.
    if matches!(pace.read(&mut reader, &mut piece[..1], &at), Ok(1)) {
        return Err(longer(path, &at, total));
    }
    progress.finish();
    finish(&mut file, path, metadata, total)
}

fn cut_short(at: &Address, have: u64, total: u64) -> Trouble {
    Trouble::Again {
        why: format!("{} ended the answer after {have} of {total} bytes", at.origin),
        wait: None,
        cost: 1,
    }
}

fn longer(path: &Path, at: &Address, total: u64) -> End {
    let _ = fs::remove_file(path);
    failed(format!(
        "{} sends more than the {total} bytes that the hub says the file has",
        at.origin
    ))
    .into()
}

/// Checks the hash of a file that has the right size, and waits until the disk has it.
fn finish(file: &mut File, path: &Path, metadata: &Metadata, total: u64) -> Result<(), End> {
    let _waiting = Progress::waiting("checking what was downloaded");
    file.seek(SeekFrom::Start(0)).map_err(disk(path))?;
    if let Some(why) = mismatch(&mut *file, total, &metadata.etag).map_err(disk(path))? {
        return Err(End::Useless(why));
    }
    file.sync_all().map_err(disk(path))?;
    Ok(())
}
