// dw (N, K) = alpha · dyᵀ (N, M) · x (M, K) [+ dw], in tiles of 64 × 64 through workgroup memory, for GPUs.
// Appended: shared/linear_weight_gradient_output.wgsl, shared/tile_64.wgsl with `main`.
// The chain of every output is that of linear_weight_gradient.wgsl, bit for bit: past the end of M it adds zeros.

@group(0) @binding(0) var<storage, read> dy: array<vec4<f32>>;

fn steps() -> u32 {
    return p.m;
}

fn start(row: u32, col: u32) -> vec4<f32> {
    return vec4<f32>();
}

// Four columns of dy, which become rows of dw: those past N are not stored. Past M they are 0.
fn values(m: u32, n: u32) -> vec4<f32> {
    let v = dy[(p.first + min(m, p.m - 1u)) * p.dy_stride + p.dy_offset / 4u + min(n, p.n - 1u) / 4u];
    return select(vec4<f32>(), v, m < p.m);
}

// Sixteen lanes load 64 consecutive columns of a row of dy.
fn left(first: u32, rows: u32, lane: u32) -> Four {
    let m = first + lane / 16u;
    let n = rows + lane % 16u * 4u;
    return Four(values(m, n), values(m + 4u, n), values(m + 8u, n), values(m + 12u, n));
}

fn stage_left(at: u32, lane: u32, v: Four) {
    stage_straight(at, lane, v);
}

// Past M they meet zeros; columns past K repeat the last and are not stored.
fn inputs(m: u32, k: u32) -> vec4<f32> {
    return x[(p.first + min(m, p.m - 1u)) * p.x_stride + min(k, p.k4 - 1u)];
}

fn right(first: u32, cols: u32, lane: u32) -> Four {
    let m = first + lane / 16u;
    let k = cols / 4u + lane % 16u;
    return Four(inputs(m, k), inputs(m + 4u, k), inputs(m + 8u, k), inputs(m + 12u, k));
}

fn stage_right(at: u32, lane: u32, v: Four) {
    stage_straight(at, lane, v);
}

fn store(row: u32, col: u32, value: vec4<f32>) {
    store_columns(row, col / 4u, value);
}
