// y (M, N) = alpha · x (M, K) · Wᵀ (N, K) [+ bias (N)] [+ y], in tiles of 64 × 64 through workgroup memory, for GPUs.
// Appended: shared/tile_64.wgsl with `main`, a shared/weight_*.wgsl part with `weight4`.
// The chain of every output is that of linear_forward.wgsl, bit for bit: past the end of K it adds zeros.

struct Params {
    m: u32,
    n: u32,
    k4: u32,        // K / 4, rounded up
    x_stride: u32,  // vec4s from one row of x to the next
    y_stride: u32,  // floats from one row of y to the next
    y_offset: u32,  // column of y where this weight's first row goes
    w_section: u32, // words before the scales of a quantised weight
    w_row: u32,     // first row of the weight to use
    flags: u32,     // 1: add to y, 2: add the bias, 4: zero the padding columns n .. pad4(n)
    alpha: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

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

// Columns past N repeat the last and are not stored; past K they meet zeros.
fn weights(col: u32, k: u32) -> vec4<f32> {
    return weight4(p.w_row + min(col, p.n - 1u), min(k, p.k4 - 1u));
}

fn right(first: u32, cols: u32, lane: u32) -> Four {
    let k = first / 4u + lane % 4u;
    let col = cols + lane / 4u * 4u;
    return Four(weights(col, k), weights(col + 1u, k), weights(col + 2u, k), weights(col + 3u, k));
}

fn stage_right(at: u32, lane: u32, v: Four) {
    stage_turned(at, lane, v);
}

fn store(row: u32, col: u32, value: vec4<f32>) {
    if row >= p.m { return; }
    let at = row * p.y_stride + p.y_offset + col;
    for (var i = 0u; i < 4u; i++) {
        if col + i < p.n {
            var v = p.alpha * value[i];
            if (p.flags & 2u) != 0u { v += bias[p.y_offset + col + i]; }
            if (p.flags & 1u) != 0u { v += y[at + i]; }
            y[at + i] = v;
        } else if (p.flags & 4u) != 0u && col < p.n {
            y[at + i] = 0.0;
        }
    }
}
