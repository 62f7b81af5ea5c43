// Parameters of linear_input_gradient*.wgsl, and what becomes of their outputs.

struct Params {
    m: u32,
    n: u32,
    k4: u32,         // K / 4, rounded up
    dy_stride: u32,  // vec4s
    dx_stride: u32,  // vec4s
    dy_offset: u32,  // column of dy that meets this weight's first row; a multiple of 4
    w_section: u32,
    w_row: u32,      // first row of the weight to use
    flags: u32,      // 1: add to dx, 2: the chain goes on from dx
    alpha: f32,
}
var<immediate> p: Params;

@group(0) @binding(2) var<storage, read_write> dx: array<vec4<f32>>;

// Where the chain of four columns starts, which may be past the last.
fn chain_start(row: u32, k: u32) -> vec4<f32> {
    if (p.flags & 2u) == 0u { return vec4<f32>(); }
    return dx[min(row, p.m - 1u) * p.dx_stride + min(k, p.k4 - 1u)];
}

fn store_columns(row: u32, k: u32, value: vec4<f32>) {
    if row >= p.m || k >= p.k4 { return; }
    let at = row * p.dx_stride + k;
    var v = p.alpha * value;
    if (p.flags & 1u) != 0u { v += dx[at]; }
    dx[at] = v;
}
