// y (M, N) = alpha · x (M, K) · Wᵀ (N, K) [+ linear_output.wgsl's] on cooperative matrices: x and W rounded to f16, sums in f32.
// Appended: shared/coop_tile.wgsl with `main`, linear_params.wgsl, linear_output.wgsl,
// linear_columns.wgsl, shared/weight.wgsl.

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;

// Activations are of f16's range; a row's scale would cost a second reading of x.
const SCALED = false;
// A line of either side is a row of x or W: 16 of K.
const LEFT_LINE = 16u;
const RIGHT_LINE = 16u;

fn steps() -> u32 {
    return p.k4 * 4u;
}

fn peaks(rows: u32, lane: u32) -> u32 {
    return 0u;
}

// Rows past M repeat the last and are not stored; past K they are 0.
fn left(rows: u32, first: u32, line: u32, at: u32) -> vec4<f32> {
    let k = (first + at) / 4u;
    let v = x[min(rows + line, p.m - 1u) * p.x_stride + min(k, p.k4 - 1u)];
    return select(vec4<f32>(), v, k < p.k4);
}

// What `with_weight` reads at a column.
alias At = u32;
alias Work = vec4<f32>;

// Past K they meet zeros.
fn work(col: At, k: u32) -> Work {
    return weight4(row_of(col), min(k, p.k4 - 1u));
}

fn right(cols: u32, first: u32, line: u32, at: u32) -> vec4<f32> {
    return with_weight(cols + line, (first + at) / 4u);
}

fn left_fragment(half: u32, row: u32, step: u32) -> Left {
    let at = half + row * LEFT_STRIDE + step;
    let stride = LEFT_STRIDE;
    return coopLoadT<Left>(&tile[at], stride);
}

fn right_fragment(half: u32, col: u32, step: u32) -> Right {
    let at = half + RIGHT_AT + col * RIGHT_STRIDE + step;
    let stride = RIGHT_STRIDE;
    return coopLoad<Right>(&tile[at], stride);
}

fn store(row: u32, col: u32, value: vec4<f32>) {
    store_four(row, col, value, vec4<f32>());
}
