// dw (N, K) = alpha · dyᵀ (N, M) · x (M, K) [+ dw] on cooperative matrices: dy and x rounded to f16, sums in f32.
// Appended: shared/linear_weight_gradient_output.wgsl, coop_tile.wgsl with `main`.

@group(0) @binding(0) var<storage, read> dy: array<vec4<f32>>;

const SCALED = true;
// A line of either side is 64 columns of a row of dy or x.
const LEFT_LINE = 64u;
const RIGHT_LINE = 64u;

fn steps() -> u32 {
    return p.m;
}

// Four columns of dy, which become rows of dw: those past N are not stored. Past M they are 0.
fn values(m: u32, n: u32) -> vec4<f32> {
    let v = dy[(p.first + min(m, p.m - 1u)) * p.dy_stride + p.dy_offset / 4u + min(n, p.n - 1u) / 4u];
    return select(vec4<f32>(), v, m < p.m);
}

// Sixteen lanes a row of dy.
fn peaks(rows: u32, lane: u32) -> u32 {
    let n = lane % 16u * 4u;
    var most = vec4<u32>();
    for (var m = lane / 16u; m < p.m; m += LANES / 16u) { most = exponents(most, values(m, rows + n)); }
    let at = lane / 16u * EDGE + n;
    sums[at] = f32(most.x);
    sums[at + 1u] = f32(most.y);
    sums[at + 2u] = f32(most.z);
    sums[at + 3u] = f32(most.w);
    return LANES / 16u;
}

fn left(rows: u32, first: u32, line: u32, at: u32) -> vec4<f32> {
    let scale = vec4<f32>(power(at, 1.0), power(at + 1u, 1.0), power(at + 2u, 1.0), power(at + 3u, 1.0));
    return values(first + line, rows + at) * scale;
}

// Past M they meet zeros; columns past K repeat the last and are not stored.
fn right(cols: u32, first: u32, line: u32, at: u32) -> vec4<f32> {
    return x[(p.first + min(first + line, p.m - 1u)) * p.x_stride + min((cols + at) / 4u, p.k4 - 1u)];
}

fn left_fragment(half: u32, row: u32, step: u32) -> Left {
    let at = half + step * LEFT_STRIDE + row;
    let stride = LEFT_STRIDE;
    return coopLoad<Left>(&tile[at], stride);
}

fn right_fragment(half: u32, col: u32, step: u32) -> Right {
    let at = half + RIGHT_AT + step * RIGHT_STRIDE + col;
    let stride = RIGHT_STRIDE;
    return coopLoadT<Right>(&tile[at], stride);
}

fn store(row: u32, col: u32, value: vec4<f32>) {
    store_columns(row, col / 4u, value);
}
