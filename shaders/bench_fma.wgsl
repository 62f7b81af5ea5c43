// The rate of multiply-adds: CHAINS independent chains an invocation, of numbers (WIDTH 1) or of vectors of four, LINKS links a round.
// No loop is inside a round: on a CPU adapter a loop's own cost is what a short body measures.

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
    let start = V(E(i % 16u));
    //#each c CHAINS: var a{c} = start + V(E({c}));
    for (var r = 0u; r < p.rounds; r++) {
        //#each link LINKS, c CHAINS: a{c} = fma(a{c}, f, g);
    }
    var s = V();
    //#each c CHAINS: s += a{c};
    if i < p.count { out[i] = total(s); }
}
