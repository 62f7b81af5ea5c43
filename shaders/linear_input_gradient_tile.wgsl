// dx (M, K) = alpha · dy (M, N) · W (N, K) [+ dx], in tiles of 64 × 64 through workgroup memory, for GPUs.
// Appended: shared/linear_input_gradient_output.wgsl, shared/tile_64.wgsl with `main`, shared/weight.wgsl.
// The chain of every output is that of linear_input_gradient.wgsl, bit for bit: past the end of N it adds zeros.

@group(0) @binding(0) var<storage, read> dy: array<vec4<f32>>;

fn steps() -> u32 {
    return p.n;
}

fn start(row: u32, col: u32) -> vec4<f32> {
    return chain_start(row, col / 4u);
}

// Four columns of dy from n on. Rows past M repeat the last and are not stored; past N they are 0, whatever dy holds there.
fn values(row: u32, n: u32) -> vec4<f32> {
    let v = dy[min(row, p.m - 1u) * p.dy_stride + p.dy_offset / 4u + min(n, p.n - 1u) / 4u];
    return select(vec4<f32>(), v, vec4<u32>(n, n + 1u, n + 2u, n + 3u) < vec4<u32>(p.n));
}

// Four lanes load 16 consecutive N of a row.
fn left(first: u32, rows: u32, lane: u32) -> Four {
    let n = first + lane % 4u * 4u;
    let row = rows + lane / 4u * 4u;
    return Four(values(row, n), values(row + 1u, n), values(row + 2u, n), values(row + 3u, n));
}

fn stage_left(at: u32, lane: u32, v: Four) {
    stage_turned(at, lane, v);
}

// Past N they meet zeros; columns past K repeat the last and are not stored.
fn weights(n: u32, k: u32) -> vec4<f32> {
    return weight4(p.w_row + min(n, p.n - 1u), min(k, p.k4 - 1u));
}

// Sixteen lanes load 64 consecutive columns of a row of W.
fn right(first: u32, cols: u32, lane: u32) -> Four {
    let n = first + lane / 16u;
    let k = cols / 4u + lane % 16u;
    return Four(weights(n, k), weights(n + 4u, k), weights(n + 8u, k), weights(n + 12u, k));
}

fn stage_right(at: u32, lane: u32, v: Four) {
    stage_straight(at, lane, v);
}

fn store(row: u32, col: u32, value: vec4<f32>) {
    store_columns(row, col / 4u, value);
}
