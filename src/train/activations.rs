//! How many blocks' activations a training run keeps for the backward pass.

use super::memory::mib;
use crate::config::ActivationMemory;
use crate::error::{Error, Result};
use crate::model::spec::ModelSpec;
use crate::model::workspace::{Shape, Workspace};

/// What `--activation-memory auto` leaves free of the memory that is known to be: one part in this many. The plan does not count
/// staging buffers, pipelines and the host's own structures.
const RESERVE: u64 = 10;

/// Settings that decide it.
#[derive(Debug, Clone, Copy)]
pub struct Keeping {
    /// `--no-checkpointing`.
    pub all: bool,
    /// `--activation-memory`.
    pub memory: Option<ActivationMemory>,
    /// What `auto` came to ([`budget`]); `None` where the free memory is not known.
    pub auto: Option<u64>,
}

impl Keeping {
    /// `shape` with the blocks that are kept.
    ///
    /// # Errors
    /// Not even one block's activations fit in the bytes that were given.
    pub fn apply(&self, spec: &ModelSpec, shape: Shape) -> Result<Shape> {
        // Without either setting one block is kept, as f32, and the others are exact as well.
        let half = shape.half && (self.all || self.memory.is_some());
        let shape = Shape { half, ..shape };
        let kept_blocks = match (self.all, self.memory) {
            (true, _) => usize::MAX,
            (false, None) => 1,
            (false, Some(ActivationMemory::Auto)) => match self.auto {
                Some(budget) => Workspace::kept_within(spec, shape, budget)?.unwrap_or(1),
                None => 1,
            },
            (false, Some(ActivationMemory::Bytes(budget))) => {
                let Some(kept) = Workspace::kept_within(spec, shape, budget)? else {
                    let least = Workspace::activation_bytes(
                        spec,
                        Shape {
                            kept_blocks: 1,
                            ..shape
                        },
                    )?;
                    return Err(Error::user(format!(
                        "--activation-memory {budget}: passes over {} tokens take at least {:.1} MiB ({least} bytes), with one \
                         block's activations kept; raise it, or lower --token-budget",
                        shape.rows,
                        mib(least)
                    )));
                };
                kept
            }
        };
        Ok(Shape { kept_blocks, ..shape })
    }
}

/// What activations may take under `auto`: what `have` bytes leave beside `rest`, less a reserve.
pub fn budget(have: Option<u64>, rest: u64) -> Option<u64> {
    have.map(|have| (have - have / RESERVE).saturating_sub(rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::model::shapes::Named;

    #[test]
    fn as_many_blocks_as_the_budget_allows() {
        let spec = Named::find("smollm2-135m").unwrap().spec();
        let shape = Shape {
            rows: 256,
            readouts: 256,
            rank: 16,
            backward: true,
            kept_blocks: 1,
            half: false,
            vocabulary_head: true,
        };
        let bytes = |kept_blocks| Workspace::activation_bytes(&spec, Shape { kept_blocks, ..shape }).unwrap();
        let keep = |memory, auto| {
            Keeping {
                all: false,
                memory,
                auto,
            }
            .apply(&spec, shape)
        };
        let kept = |budget| keep(Some(ActivationMemory::Bytes(budget)), None).map(|s| s.kept_blocks);
        for n in [1, 2, 17, 30] {
            assert_eq!(kept(bytes(n)).unwrap(), n);
            assert_eq!(kept(bytes(n) + 1).unwrap(), n);
        }
        assert_eq!(kept(bytes(17) - 1).unwrap(), 16);
        assert_eq!(kept(u64::MAX).unwrap(), 30);
        let error = kept(bytes(1) - 1).unwrap_err().to_string();
        assert!(
            error.contains("--activation-memory") && error.contains(&bytes(1).to_string()),
            "{error}"
        );
        // Without a budget, or where auto knows nothing or finds no room: one.
        let auto = Some(ActivationMemory::Auto);
        assert_eq!(keep(None, None).unwrap().kept_blocks, 1);
        assert_eq!(keep(auto, None).unwrap().kept_blocks, 1);
        assert_eq!(keep(auto, Some(5)).unwrap().kept_blocks, 1);
        assert_eq!(
            keep(auto, budget(Some(bytes(9).div_ceil(9) * 10 + 80), 72))
                .unwrap()
                .kept_blocks,
            9
        );
        let all = Keeping {
            all: true,
            memory: None,
            auto: None,
        };
        assert_eq!(all.apply(&spec, shape).unwrap().kept(&spec), 30);
        assert_eq!(budget(Some(100), 95), Some(0));
    }
}
