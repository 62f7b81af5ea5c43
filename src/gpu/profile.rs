//! Time per kernel from GPU timestamps.

use std::collections::BTreeMap;

/// Time one kernel took, summed over its dispatches.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ProfileRow {
    /// The kernel's name.
    pub kernel: String,
    /// Dispatches.
    pub count: usize,
    /// Seconds on the GPU.
    pub seconds: f64,
}

/// Pairs of timestamps a submission may hold.
pub(super) const CAPACITY: u32 = 1024;

pub(super) struct Profile {
    pub(super) queries: wgpu::QuerySet,
    pub(super) resolve: wgpu::Buffer,
    pub(super) host: wgpu::Buffer,
    pub(super) names: Vec<&'static str>,
    period: f64,
    totals: BTreeMap<&'static str, (usize, f64)>,
}

impl Profile {
    pub(super) fn new(device: &wgpu::Device, period: f32) -> Self {
        let bytes = u64::from(CAPACITY) * 16;
        let buffer = |label, usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: bytes,
                usage,
                mapped_at_creation: false,
            })
        };
        Self {
            queries: device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("profile"),
                ty: wgpu::QueryType::Timestamp,
                count: CAPACITY * 2,
            }),
            resolve: buffer(
                "profile resolve",
                wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            ),
            host: buffer(
                "profile readback",
                wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            ),
            names: Vec::new(),
            period: f64::from(period) * 1e-9,
            totals: BTreeMap::new(),
        }
    }

    /// Adds the timestamps of one finished submission; `ticks` holds a begin and an end per dispatch.
    pub(super) fn add(&mut self, ticks: &[u64]) {
        for (name, pair) in self.names.drain(..).zip(ticks.chunks_exact(2)) {
            let total = self.totals.entry(name).or_default();
            total.0 += 1;
            total.1 += pair[1].saturating_sub(pair[0]) as f64 * self.period;
        }
    }

    pub(super) fn rows(&self) -> Vec<ProfileRow> {
        let mut rows: Vec<_> = self
            .totals
            .iter()
            .map(|(k, (count, seconds))| ProfileRow {
                kernel: (*k).to_string(),
                count: *count,
                seconds: *seconds,
            })
            .collect();
        rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        rows
    }

    pub(super) fn clear(&mut self) {
        self.totals.clear();
    }
}
