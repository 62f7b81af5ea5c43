//! The memory plan: what a run will allocate on the device, before anything is allocated.
//!
//! Constructors say it themselves: a [`DryRun`] calls them on a device that only counts ([`Gpu::counting`]).

use crate::error::Result;
use crate::gpu::{BufferLimits, Gpu};
use std::fmt;

/// Who takes how many bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// (owner, bytes), no owner twice. Owners are named as the device's accounting names them (`gpu.memory().by_owner`).
    pub rows: Vec<(String, u64)>,
    /// What is wrong with the first buffer that the adapter cannot hold, however much memory it has.
    pub unbound: Option<String>,
}

/// Constructors that run one after another on a device that only counts. What they make has to be kept, as in the run.
pub struct DryRun {
    gpu: Gpu,
    plan: Plan,
}

impl DryRun {
    /// On an adapter with these limits.
    ///
    /// # Errors
    /// As [`Gpu::counting`].
    pub fn new(limits: &BufferLimits) -> Result<Self> {
        Ok(Self {
            gpu: Gpu::counting(limits)?,
            plan: Plan::default(),
        })
    }

    /// Counts what `make` allocates, each owner under `prefix` where that is not empty ("reward model weights").
    ///
    /// # Errors
    /// Those of `make`.
    pub fn part<T>(&mut self, prefix: &str, make: impl FnOnce(&Gpu) -> Result<T>) -> Result<T> {
        let before = Plan::held_by(&self.gpu);
        let made = make(&self.gpu)?;
        let mut part = Plan::held_by(&self.gpu);
        for (owner, bytes) in &mut part.rows {
            *bytes -= before.bytes(owner);
        }
        part.rows.retain(|(_, bytes)| *bytes > 0);
        self.plan.extend(prefix, &part);
        self.plan.unbound = part.unbound;
        Ok(made)
    }

    /// What was counted.
    pub fn plan(self) -> Plan {
        self.plan
    }
}

impl Plan {
    /// What `make` allocates on an adapter with these limits.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn of<T>(limits: &BufferLimits, make: impl FnOnce(&Gpu) -> Result<T>) -> Result<Self> {
        let gpu = Gpu::counting(limits)?;
        let _held = make(&gpu)?;
        Ok(Self::held_by(&gpu))
    }

    /// What a device that counts has counted and still holds.
    pub fn held_by(gpu: &Gpu) -> Self {
        Self {
            rows: gpu.memory().by_owner.into_iter().collect(),
            unbound: gpu.unbound(),
        }
    }

    /// Adds `bytes` to an owner's row.
    pub fn add(&mut self, owner: &str, bytes: u64) {
        match self.rows.iter_mut().find(|(name, _)| name == owner) {
            Some((_, sum)) => *sum += bytes,
            None => self.rows.push((owner.to_string(), bytes)),
        }
    }

    /// Adds another plan's rows, each under `prefix` where that is not empty.
    pub fn extend(&mut self, prefix: &str, other: &Self) {
        for (owner, bytes) in &other.rows {
            let name = format!("{prefix} {owner}");
            self.add(name.trim_start(), *bytes);
        }
    }

    /// All bytes.
    pub fn total(&self) -> u64 {
        self.rows.iter().map(|(_, bytes)| bytes).sum()
    }

    /// The bytes of one owner; 0 if it has no row.
    pub fn bytes(&self, owner: &str) -> u64 {
        let row = self.rows.iter().find(|(name, _)| name == owner);
        row.map_or(0, |(_, bytes)| *bytes)
    }
}

impl fmt::Display for Plan {
    /// One owner a line, largest first, and the total.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: Vec<&(String, u64)> = self.rows.iter().collect();
        rows.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        for (owner, bytes) in rows {
            writeln!(f, "{:>12.1} MiB  {owner}", mib(*bytes))?;
        }
        write!(f, "{:>12.1} MiB  total", mib(self.total()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn rows_add_up_and_print() {
        let mut plan = Plan::default();
        plan.add("weights", 3 << 20);
        plan.add("weights", 1 << 20);
        let mut all = Plan::default();
        all.extend("reward model", &plan);
        all.add("adapter", 1 << 19);
        assert_eq!(
            (all.total(), all.bytes("reward model weights")),
            ((4 << 20) + (1 << 19), 4 << 20)
        );
        let text = all.to_string();
        assert!(
            text.lines()
                .next()
                .unwrap()
                .ends_with("4.0 MiB  reward model weights"),
            "{text}"
        );
        assert!(text.ends_with("4.5 MiB  total"), "{text}");
    }
}
