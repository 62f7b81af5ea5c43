// dx (M, C) = rstd · (dy · gamma) − x · rstd³ / C · Σ(dy · gamma · x)  [+ dx]
// A lane is one row; the sum's order depends on the column alone.

override LANES: u32 = 8u;

struct Params {
    m: u32,
    c4: u32,         // C / 4
    inverse_c: f32,  // 1 / C
    accumulate: u32, // 1: add to dx
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> gamma: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> rstd: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = (group.y * 65535u + group.x) * LANES + local.x;
    let at = min(row, p.m - 1u);
    let base = at * p.c4;
    var s = vec4<f32>();
    for (var k = 0u; k < p.c4; k++) {
        s = fma(dy[base + k] * gamma[k], x[base + k], s);
    }
    let r = rstd[at];
    let dot = (s.x + s.y) + (s.z + s.w);
    // x · rstd is of order 1: the factors are multiplied in an order that keeps each product in range.
    let along = -(dot * r * p.inverse_c) * r;
    if row < p.m {
        for (var k = 0u; k < p.c4; k++) {
            var v = r * fma(x[base + k], vec4<f32>(along), dy[base + k] * gamma[k]);
            if p.accumulate != 0u { v += dx[base + k]; }
            dx[base + k] = v;
        }
    }
}
