// halves (N, 8): for counter i of counters (N) the four Philox words under the key, each as its high and its low
// half in f32 (exact). A self-test: the sampler depends on these bits.
// Appended: shared/philox.wgsl.

override LANES: u32 = 8u;

struct Params {
    n: u32,
    key0: u32,
    key1: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> counters: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> halves: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let i = (group.y * 65535u + group.x) * LANES + local.x;
    if i >= p.n { return; }
    let w = philox(counters[i], vec2<u32>(p.key0, p.key1));
    halves[2u * i] = vec4<f32>(vec4<u32>(w.x >> 16u, w.x & 0xffffu, w.y >> 16u, w.y & 0xffffu));
    halves[2u * i + 1u] = vec4<f32>(vec4<u32>(w.z >> 16u, w.z & 0xffffu, w.w >> 16u, w.w & 0xffffu));
}
