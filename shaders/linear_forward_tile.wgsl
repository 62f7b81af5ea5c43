// y (M, N) = alpha · x (M, K) · Wᵀ (N, K) [+ linear_output.wgsl's], in tiles of 64 × 64 through workgroup memory, for GPUs.
// Appended: shared/tile_64.wgsl with `main`, shared/linear_params.wgsl, linear_output.wgsl, linear_columns.wgsl,
// shared/weight.wgsl.
// The chain of every output is that of linear_forward.wgsl, bit for bit: past the end of K it adds zeros.

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;

fn steps() -> u32 {
    return p.k4 * 4u;
}

fn start(row: u32, col: u32) -> vec4<f32> {
    return vec4<f32>();
}

// Rows past M repeat the last and are not stored; past K they are 0.
fn values(row: u32, k: u32) -> vec4<f32> {
    let v = x[min(row, p.m - 1u) * p.x_stride + min(k, p.k4 - 1u)];
    return select(vec4<f32>(), v, k < p.k4);
}

// Four lanes load 16 consecutive K of a row.
fn left(first: u32, rows: u32, lane: u32) -> Four {
    let k = first / 4u + lane % 4u;
    let row = rows + lane / 4u * 4u;
    return Four(values(row, k), values(row + 1u, k), values(row + 2u, k), values(row + 3u, k));
}

fn stage_left(at: u32, lane: u32, v: Four) {
    stage_turned(at, lane, v);
}

// What `with_weight` reads at a column.
alias At = u32;
alias Work = vec4<f32>;

// Past K they meet zeros.
fn work(col: At, k: u32) -> Work {
    return weight4(row_of(col), min(k, p.k4 - 1u));
}

fn right(first: u32, cols: u32, lane: u32) -> Four {
    let k = first / 4u + lane % 4u;
    let col = cols + lane / 4u * 4u;
    return Four(with_weight(col, k), with_weight(col + 1u, k), with_weight(col + 2u, k), with_weight(col + 3u, k));
}

fn stage_right(at: u32, lane: u32, v: Four) {
    stage_turned(at, lane, v);
}

fn store(row: u32, col: u32, value: vec4<f32>) {
    store_four(row, col, value, vec4<f32>());
}
