// words (N / 2) = values (N) as f16, two in a word, the first in its low half.
// Appended: shared/halves.wgsl, which says how they are rounded.

override LANES: u32 = 64u;

struct Params {
    n4: u32, // vec4s of values
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> values: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> words: array<vec2<u32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let i = (group.y * 65535u + group.x) * LANES + local.x;
    if i >= p.n4 { return; }
    let v = values[i];
    words[i] = vec2<u32>(halves(v.xy), halves(v.zw));
}
