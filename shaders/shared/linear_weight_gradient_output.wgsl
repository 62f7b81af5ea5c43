// Parameters and operands of linear_weight_gradient*.wgsl, and what becomes of their outputs.

struct Params {
    m: u32,
    n: u32,
    k4: u32,         // K / 4, rounded up
    dy_stride: u32,  // vec4s
    x_stride: u32,   // vec4s
    dy_offset: u32,  // column of dy that meets dw's first row; a multiple of 4
    dw_row: u32,     // first row of dw to write
    flags: u32,      // 1: add to dw
    alpha: f32,
    first: u32,      // row of dy and x where the sum begins
}
var<immediate> p: Params;

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> dw: array<vec4<f32>>;

fn store_columns(row: u32, k: u32, value: vec4<f32>) {
    if row >= p.n || k >= p.k4 { return; }
    let at = (p.dw_row + row) * p.k4 + k;
    var v = p.alpha * value;
    if (p.flags & 1u) != 0u { v += dw[at]; }
    dw[at] = v;
}
