// values (N) = the f16 numbers in words (N / 2), as half_pack.wgsl left them.

override LANES: u32 = 64u;

struct Params {
    n4: u32, // vec4s of values
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> words: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> values: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let i = (group.y * 65535u + group.x) * LANES + local.x;
    if i >= p.n4 { return; }
    values[i] = vec4<f32>(unpack2x16float(words[i].x), unpack2x16float(words[i].y));
}
