// The rate of multiply-adds: CHAINS independent chains an invocation, of numbers (WIDTH 1) or of vectors of four, LINKS links a round.
// The loops inside a round are unrolled: on a CPU adapter a loop's own cost is what a short body measures.

override LANES: u32 = 64u;

struct Params {
    rounds: u32, // rounds of the loop
    count: u32,  // invocations, and outputs
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // factor, addend
@group(0) @binding(1) var<storage, read_write> out: array<f32>;  // (count): sum of an invocation's chains

//#if WIDTH == 4
alias V = vec4<E>;
fn first(v: vec4<f32>) -> V { return V(v); }
fn total(s: V) -> f32 { return f32((s.x + s.y) + (s.z + s.w)); }
//#else
alias V = E;
fn first(v: vec4<f32>) -> V { return V(v.x); }
fn total(s: V) -> f32 { return f32(s); }
//#end

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
    let i = id.y * grid.x * LANES + id.x;
    let f = first(x[0]);
    let g = first(x[1]);
    var a: array<V, CHAINS>;
    for (var c = 0u; c < CHAINS; c++) { a[c] = V(E(i % 16u)) + V(E(c)); }
    for (var r = 0u; r < p.rounds; r++) {
        for (var link = 0u; link < LINKS; link++) {
            for (var c = 0u; c < CHAINS; c++) { a[c] = fma(a[c], f, g); }
        }
    }
    var s = a[0];
    for (var c = 1u; c < CHAINS; c++) { s += a[c]; }
    if i < p.count { out[i] = total(s); }
}
