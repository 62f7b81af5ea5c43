// dx (M, K) = alpha · dy (M, N) · W (N, K) [+ dx] on cooperative matrices: dy and W rounded to f16, sums in f32.
// Appended: shared/linear_input_gradient_output.wgsl, coop_tile.wgsl with `main`, and a
// weight.wgsl.

@group(0) @binding(0) var<storage, read> dy: array<vec4<f32>>;

const SCALED = true;
// A line of the left side is 16 of a row of dy, one of the right side 64 columns of a row of W.
const LEFT_LINE = 16u;
const RIGHT_LINE = 64u;

fn steps() -> u32 {
    return p.n;
}

// Four columns of dy from n on. Rows past M repeat the last and are not stored; past N they are 0, whatever dy holds there.
fn values(row: u32, n: u32) -> vec4<f32> {
    let v = dy[min(row, p.m - 1u) * p.dy_stride + p.dy_offset / 4u + min(n, p.n - 1u) / 4u];
    return select(vec4<f32>(), v, vec4<u32>(n, n + 1u, n + 2u, n + 3u) < vec4<u32>(p.n));
}

// Four lanes a row.
fn peaks(rows: u32, lane: u32) -> u32 {
    let part = lane % 4u;
    for (var row = lane / 4u; row < EDGE; row += LANES / 4u) {
        var most = vec4<u32>();
        for (var n = part * 4u; n < p.n; n += 16u) { most = exponents(most, values(rows + row, n)); }
        sums[part * EDGE + row] = f32(max(max(most.x, most.y), max(most.z, most.w)));
    }
    return 4u;
}

fn left(rows: u32, first: u32, line: u32, at: u32) -> vec4<f32> {
    return values(rows + line, first + at) * power(line, 1.0);
}

// Past N they meet zeros; columns past K repeat the last and are not stored.
fn right(cols: u32, first: u32, line: u32, at: u32) -> vec4<f32> {
    return weight4(p.w_row + min(first + line, p.n - 1u), min((cols + at) / 4u, p.k4 - 1u));
}

fn left_fragment(half: u32, row: u32, step: u32) -> Left {
    let at = half + row * LEFT_STRIDE + step;
    let stride = LEFT_STRIDE;
    return coopLoadT<Left>(&tile[at], stride);
}

fn right_fragment(half: u32, col: u32, step: u32) -> Right {
    let at = half + RIGHT_AT + step * RIGHT_STRIDE + col;
    let stride = RIGHT_STRIDE;
    return coopLoadT<Right>(&tile[at], stride);
}

fn store(row: u32, col: u32, value: vec4<f32>) {
    var v = value;
    if (p.flags & 2u) != 0u { v += chain_start(row, col / 4u); }
    store_columns(row, col / 4u, v);
}
