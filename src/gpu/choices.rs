//! What an open device is told about choices among kernels: precision, forced and measured variants.

use super::adapters::DeviceKind;
use super::device::{Gpu, Tune};
use crate::config::MatmulPrecision;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

impl Gpu {
    /// How exact the matrix products recorded from here on must be. A run sets it before its first one; a new device has `highest`.
    ///
    /// # Errors
    /// For `medium`, the adapter has no cooperative matrices that [`AdapterReport::coop_side`](super::AdapterReport::coop_side)
    /// knows. It is refused rather than ignored, since the setting is recorded with what was computed.
    pub fn set_matmul_precision(&self, precision: MatmulPrecision) -> Result<()> {
        let half = precision == MatmulPrecision::Medium;
        if half && self.0.report.coop_side().is_none() {
            return Err(Error::user(format!(
                "--matmul-precision medium: adapter {} has no cooperative matrices of 8×8×8 or 16×16×16 with f16 operands and f32 \
                 sums (`tea-wgpu devices` lists what it has); use --matmul-precision highest, or another adapter with --device",
                self.0.report.name
            )));
        }
        if half && self.0.caps.kind == DeviceKind::Cpu {
            log::warn!(
                "--matmul-precision medium is slower than highest on a CPU adapter, which has no matrix units"
            );
        }
        self.0.matmul_precision.store(precision as u8, Ordering::Relaxed);
        Ok(())
    }

    /// How exact matrix products must be.
    pub fn matmul_precision(&self) -> MatmulPrecision {
        let set = self.0.matmul_precision.load(Ordering::Relaxed);
        MatmulPrecision::ALL
            .into_iter()
            .find(|p| *p as u8 == set)
            .unwrap_or_default()
    }

    /// Whether shaders run without the driver's bounds and loop checks.
    pub fn trusts_shaders(&self) -> bool {
        self.0.trusted
    }

    /// Where choices among kernel variants come from ([`GpuOptions::tune`](super::GpuOptions::tune)).
    pub fn tune(&self) -> Tune {
        self.0.tune
    }

    /// The variant that the environment's `TEA_VARIANT` asks for.
    pub fn forced_variant(&self) -> Option<&str> {
        self.0.variant.as_deref()
    }

    /// The kernel variant that [`set_choices`](Self::set_choices) names for a class of work.
    pub fn choice(&self, class: u64) -> Option<&'static str> {
        let choices = self.0.choices.read().unwrap_or_else(PoisonError::into_inner);
        choices.get(&class).copied()
    }

    /// Sets the variants that were found best, by class of work, in place of earlier ones.
    pub fn set_choices(&self, choices: HashMap<u64, &'static str>) {
        *self.0.choices.write().unwrap_or_else(PoisonError::into_inner) = choices;
    }
}
