// What the loops of multiply-adds share. Before it: `alias V` (a chain's values) and its element `E`, `factor`, `addend`, `total`.
// The bodies of the loops are long on purpose: on a CPU adapter a loop's own cost is what a short body measures.

override LANES: u32 = 64u;

struct Params {
    rounds: u32, // rounds of the loop
    count: u32,  // invocations, and outputs
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // factor, addend
@group(0) @binding(1) var<storage, read_write> out: array<f32>;  // (count): sum of an invocation's chains
