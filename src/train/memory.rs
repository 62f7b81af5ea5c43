//! Whether a run's memory plan fits the device, where its free memory can be known.

use crate::error::{Error, Result};
use crate::gpu::{DeviceKind, Gpu};
use crate::model::plan::Plan;

/// Memory of the device in bytes, where it can be known: a CPU adapter uses the machine's. `TEA_MEMORY_LIMIT` (bytes)
/// stands in for either.
///
/// # Errors
/// `TEA_MEMORY_LIMIT` is not a number.
pub fn free(gpu: &Gpu) -> Result<Option<u64>> {
    if let Ok(limit) = std::env::var("TEA_MEMORY_LIMIT") {
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
    Ok(std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| available(&text)))
}

/// Refuses a plan of more than `have` bytes; `lower` names the settings that make it smaller.
///
/// # Errors
/// A user error with the plan.
pub fn fits(plan: &Plan, have: Option<u64>, lower: &str) -> Result<()> {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    match have {
        Some(have) if plan.total() > have => Err(Error::user(format!(
            "this run needs {:.1} MiB of memory and the device has {:.1} MiB free:\n{plan}\nLower {lower}",
            mib(plan.total()),
            mib(have),
        ))),
        _ => Ok(()),
    }
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
    use super::*;

    #[test]
    fn meminfo_is_read_in_kibibytes() {
        let text = "MemTotal:       65778432 kB\nMemFree:          123 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(available(text), Some(2 << 20));
        assert_eq!(available("MemTotal: 5 kB\n"), None);
        assert_eq!(available("MemAvailable: many kB\n"), None);
    }
}
