//! Opening an adapter with every optional feature that it really has.
//!
//! A driver's list of features is a promise that some do not keep: the device is refused, or wgpu's back end panics.
//! Such an adapter is opened again, feature by feature, and what it refused is reported.

use super::adapters::{AdapterReport, COOP, F16, LeftOut, SUBGROUPS, TIMESTAMPS};
use crate::file::guard::guarded;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use wgpu::Features;

/// What kernels or measurements make use of where an adapter has it. The earlier ones matter to more kernels.
const OPTIONAL: [(Features, &str); 5] = [
    (Features::SUBGROUP, SUBGROUPS),
    (Features::SHADER_F16, F16),
    (Features::TIMESTAMP_QUERY, TIMESTAMPS),
    (Features::PIPELINE_CACHE, "pipeline cache"),
    (Features::EXPERIMENTAL_COOPERATIVE_MATRIX, COOP),
];

/// An adapter's device and queue, and the optional features it was opened without.
pub(super) struct Opened {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) refused: Vec<LeftOut>,
}

/// Opens `adapter` with its limits and as many optional features as it lets itself be opened with.
///
/// # Errors
/// What the driver or wgpu said when it was opened with none of them.
pub(super) fn open(adapter: &wgpu::Adapter, report: &AdapterReport) -> Result<Opened, String> {
    let listed = adapter.features();
    let wanted: Vec<_> = OPTIONAL
        .into_iter()
        .filter(|(feature, _)| listed.contains(*feature))
        .collect();
    let ((device, queue), refused) = widest(&wanted, |optional| {
        let features = optional | Features::IMMEDIATES;
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("tea-wgpu"),
            required_features: features,
            required_limits: adapter.limits(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            experimental_features: experimental(features),
            ..Default::default()
        };
        guarded(|| pollster::block_on(adapter.request_device(&descriptor)))
            .and_then(|opened| opened.map_err(|e| e.to_string()))
    })?;
    if !refused.is_empty() {
        warn_once(report, &refused);
    }
    Ok(Opened {
        device,
        queue,
        refused,
    })
}

/// What `open` returns for all of `wanted`, or else for those that it takes one after another, and those it does not.
fn widest<T>(
    wanted: &[(Features, &'static str)],
    mut open: impl FnMut(Features) -> Result<T, String>,
) -> Result<(T, Vec<LeftOut>), String> {
    let all = wanted.iter().fold(Features::empty(), |all, (f, _)| all | *f);
    let first = open(all);
    if first.is_ok() || wanted.is_empty() {
        return first.map(|opened| (opened, Vec::new()));
    }
    let mut kept = Features::empty();
    let mut best = open(kept)?;
    let mut refused = Vec::new();
    for (feature, name) in wanted {
        match open(kept | *feature) {
            Ok(opened) => {
                best = opened;
                kept |= *feature;
            }
            Err(e) => refused.push(LeftOut {
                feature: name,
                why: format!("the driver lists it and refuses to be opened with it: {e}"),
            }),
        }
    }
    Ok((best, refused))
}

/// Says what an adapter is used without, once per adapter and process.
fn warn_once(report: &AdapterReport, refused: &[LeftOut]) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let list = refused.iter().map(ToString::to_string).collect::<Vec<_>>();
    let text = format!(
        "adapter {} ({}) is used without {}; update its driver",
        report.name,
        report.backend,
        list.join(", ")
    );
    if SAID
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(text.clone())
    {
        log::warn!("{text}");
    }
}

/// wgpu's consent form for experimental features, signed only where one is asked for.
#[allow(
    unsafe_code,
    reason = "cooperative matrices are experimental in wgpu; kernels that use them are checked against their twins"
)]
pub(super) fn experimental(features: Features) -> wgpu::ExperimentalFeatures {
    if features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
        // SAFETY: wgpu asks to acknowledge that its own code may have bugs here; there is nothing to uphold.
        unsafe { wgpu::ExperimentalFeatures::enabled() }
    } else {
        wgpu::ExperimentalFeatures::disabled()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// A driver that refuses `bad`; with how often it was asked, and the names of what was left out.
    fn opened(bad: &[Features]) -> Result<(Features, usize, Vec<&'static str>), String> {
        let mut asked = 0;
        let (features, refused) = widest(&OPTIONAL, |f| {
            asked += 1;
            match bad.iter().find(|b| f.contains(**b)) {
                // wgpu's back ends do either.
                Some(b) if b.contains(Features::SUBGROUP) => guarded(|| panic!("{b:?}")),
                Some(b) => Err(format!("{b:?}")),
                None => Ok(f),
            }
        })?;
        Ok((features, asked, refused.iter().map(|r| r.feature).collect()))
    }

    #[test]
    fn an_adapter_is_opened_with_all_that_it_takes() {
        let all = OPTIONAL.iter().fold(Features::empty(), |a, (f, _)| a | *f);
        assert_eq!(opened(&[]), Ok((all, 1, vec![])));
        for (feature, name) in OPTIONAL {
            assert_eq!(opened(&[feature]), Ok((all - feature, 7, vec![name])));
        }
        let two = [Features::SUBGROUP, Features::EXPERIMENTAL_COOPERATIVE_MATRIX];
        assert_eq!(
            opened(&two),
            Ok((all - two[0] - two[1], 7, vec![SUBGROUPS, COOP]))
        );
        // Two that exclude each other: the first one stays.
        let pair = Features::SUBGROUP | Features::SHADER_F16;
        assert_eq!(opened(&[pair]).unwrap().2, ["f16"]);
        // One that cannot be opened at all.
        assert_eq!(
            opened(&[Features::empty()]),
            Err(format!("{:?}", Features::empty()))
        );
    }

    #[test]
    fn the_reason_is_the_drivers() {
        let (_, refused) = widest(&OPTIONAL[..2], |f| match f.contains(Features::SHADER_F16) {
            true => guarded(|| panic!("feature not present")),
            false => Ok(()),
        })
        .unwrap();
        assert_eq!(
            refused[0].to_string(),
            "f16 (the driver lists it and refuses to be opened with it: feature not present)"
        );
        // Nothing optional: asked once.
        let mut asked = 0;
        let failed: Result<((), _), _> = widest(&[], |_| {
            asked += 1;
            Err("no".to_owned())
        });
        assert_eq!((failed.unwrap_err(), asked), ("no".to_owned(), 1));
    }
}
