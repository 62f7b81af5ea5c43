// dgamma (C) += Σ over the rows first ..< end of dy · x · rstd
// A lane is four columns; one chain of fused multiply-adds over the rows in ascending order.

override LANES: u32 = 8u;

struct Params {
    end: u32,   // one past the last row
    c4: u32,    // C / 4
    first: u32, // the first row
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> rstd: array<f32>;
@group(0) @binding(3) var<storage, read_write> dgamma: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let col = group.x * LANES + local.x;
    let k = min(col, p.c4 - 1u);
    var s = vec4<f32>();
    var row = p.first;
    for (; row + 4u <= p.end; row += 4u) {
        let at = row * p.c4 + k;
        s = fma(dy[at], x[at] * rstd[row], s);
        s = fma(dy[at + p.c4], x[at + p.c4] * rstd[row + 1u], s);
        s = fma(dy[at + 2u * p.c4], x[at + 2u * p.c4] * rstd[row + 2u], s);
        s = fma(dy[at + 3u * p.c4], x[at + 3u * p.c4] * rstd[row + 3u], s);
    }
    for (; row < p.end; row++) {
        let at = row * p.c4 + k;
        s = fma(dy[at], x[at] * rstd[row], s);
    }
    if col < p.c4 {
        dgamma[col] += s;
    }
}
