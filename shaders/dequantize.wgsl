// y (rows, K) = rows w_row .. w_row + rows of W, in f32
// Appended: shared/weight.wgsl. A lane writes four columns.

override LANES: u32 = 8u;

struct Params {
    rows: u32,
    k4: u32,        // K / 4, rounded up
    w_section: u32, // words before the scales of a quantised weight
    w_row: u32,     // first row of the weight to use
    y_row: u32,     // first row of y to write
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let i = (group.y * 65535u + group.x) * LANES + local.x;
    if i >= p.rows * p.k4 { return; }
    y[p.y_row * p.k4 + i] = weight4(p.w_row + i / p.k4, i % p.k4);
}
