// 4 independent chains of fused multiply-adds over vec4s, 16 links a round. Prepended: `alias V`, its element `E`.
// The bodies are long on purpose: on a CPU adapter a loop's own cost is what a short body measures.

override LANES: u32 = 64u;

struct Params {
    rounds: u32, // rounds of the loop
    count: u32,  // invocations, and outputs
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // factor, addend
@group(0) @binding(1) var<storage, read_write> out: array<f32>;  // (count): sum of an invocation's chains

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
    let i = id.y * grid.x * LANES + id.x;
    let f = V(x[0]);
    let g = V(x[1]);
    let start = V(E(i % 16u));
    var a0 = start + V(E(0));
    var a1 = start + V(E(1));
    var a2 = start + V(E(2));
    var a3 = start + V(E(3));
    for (var r = 0u; r < p.rounds; r++) {
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
    }
    let s = a0 + a1 + a2 + a3;
    if i < p.count { out[i] = f32((s.x + s.y) + (s.z + s.w)); }
}
