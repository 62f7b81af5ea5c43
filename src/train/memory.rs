//! Whether a run's memory plan fits the device, where its free memory can be known.

use super::cgroup;
use crate::error::{Error, Result};
use crate::gpu::{DeviceKind, Gpu};
use crate::model::plan::Plan;
use std::path::Path;

/// Memory of the device in bytes, where it can be known: a CPU adapter uses the machine's, as far as the control groups of the
/// process let it (Linux). `TEA_MEMORY_LIMIT` (bytes) stands in for either.
///
/// # Errors
/// `TEA_MEMORY_LIMIT` is not a number.
pub fn free(gpu: &Gpu) -> Result<Option<u64>> {
    if let Some(limit) = crate::config::variable("TEA_MEMORY_LIMIT") {
        return match limit.parse() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(_) => Err(Error::user(format!(
                "TEA_MEMORY_LIMIT is {limit:?}; it must be a number of bytes"
            ))),
        };
    }
    if gpu.caps().kind != DeviceKind::Cpu {
        return Ok(None);
    }
    Ok(on_host(Path::new("/")))
}

/// What the machine, and the control groups of the process, leave; `root` is the file system's root.
fn on_host(root: &Path) -> Option<u64> {
    let machine = std::fs::read_to_string(root.join("proc/meminfo"))
        .ok()
        .and_then(|text| available(&text));
    machine.into_iter().chain(cgroup::free(root)).min()
}

/// Refuses a plan of more than `have` bytes; `lower` names the settings that make it smaller.
///
/// # Errors
/// A user error with the plan.
pub fn fits(plan: &Plan, have: Option<u64>, lower: &str) -> Result<()> {
    match short(plan, have) {
        Some(short) => Err(Error::user(format!("{short}:\n{plan}\nLower {lower}"))),
        None => Ok(()),
    }
}

/// Refuses a plan with a buffer that the adapter cannot hold; `lower` names the settings that make it smaller.
///
/// # Errors
/// A user error with the buffer and the adapter's limit.
pub fn binds(plan: &Plan, lower: &str) -> Result<()> {
    match &plan.unbound {
        Some(wrong) => Err(Error::user(format!("{wrong}. Lower {lower}"))),
        None => Ok(()),
    }
}

/// What a plan of more than `have` bytes needs and what there is, in words; `None` where it fits or that is not known.
pub fn short(plan: &Plan, have: Option<u64>) -> Option<String> {
    let have = have.filter(|have| plan.total() > *have)?;
    Some(format!(
        "this run needs {:.1} MiB of memory and the device has {:.1} MiB free",
        mib(plan.total()),
        mib(have),
    ))
}

/// Bytes as MiB.
pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// `MemAvailable` of Linux's meminfo, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.trim()
        .split(' ')
        .next()?
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_tighter_of_machine_and_control_group_counts() {
        let fs = tempfile::tempdir().unwrap();
        assert_eq!(on_host(fs.path()), None);
        for dir in ["proc/self", "sys/fs/cgroup/job"] {
            std::fs::create_dir_all(fs.path().join(dir)).unwrap();
        }
        let write = |name: &str, text: &str| std::fs::write(fs.path().join(name), text).unwrap();
        write("proc/meminfo", "MemAvailable: 8 kB\n");
        assert_eq!(on_host(fs.path()), Some(8192));
        write("proc/self/cgroup", "0::/job\n");
        write("sys/fs/cgroup/job/memory.max", "5000\n");
        assert_eq!(on_host(fs.path()), Some(5000));
        write("sys/fs/cgroup/job/memory.max", "50000\n");
        assert_eq!(on_host(fs.path()), Some(8192));
    }

    #[test]
    fn meminfo_is_read_in_kibibytes() {
        let text = "MemTotal:       65778432 kB\nMemFree:          123 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(available(text), Some(2 << 20));
        assert_eq!(available("MemTotal: 5 kB\n"), None);
        assert_eq!(available("MemAvailable: many kB\n"), None);
    }
}
