// y (M, C) = x · rstd · gamma (C), rstd (M) = 1 / sqrt(mean(x²) + eps)
// A lane is one row. Four interleaved chains of fused multiply-adds along C, added pairwise at the end:
// the order depends on the column alone.

override LANES: u32 = 8u;

struct Params {
    m: u32,
    c4: u32,         // C / 4
    inverse_c: f32,  // 1 / C
    eps: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> gamma: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> rstd: array<f32>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = (group.y * 65535u + group.x) * LANES + local.x;
    let base = min(row, p.m - 1u) * p.c4;
    var s = vec4<f32>();
    var k = 0u;
    for (; k + 4u <= p.c4; k += 4u) {
        let a = x[base + k];
        let b = x[base + k + 1u];
        let c = x[base + k + 2u];
        let d = x[base + k + 3u];
        s = fma(d, d, fma(c, c, fma(b, b, fma(a, a, s))));
    }
    for (; k < p.c4; k++) {
        let a = x[base + k];
        s = fma(a, a, s);
    }
    let r = 1.0 / sqrt(fma((s.x + s.y) + (s.z + s.w), p.inverse_c, p.eps));
    if row < p.m {
        rstd[row] = r;
        for (var k = 0u; k < p.c4; k++) {
            y[base + k] = x[base + k] * r * gamma[k];
        }
    }
}
