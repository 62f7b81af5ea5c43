// dst = src, eight vec4s a lane: the bandwidth of a kernel that reads and writes.

override LANES: u32 = 64u;

struct Params {
    n4: u32, // vec4s
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> src: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> dst: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group.y * grid.x + group.x) * LANES * 8u + lane;
    if i + 7u * LANES < p.n4 {
        dst[i] = src[i];
        dst[i + LANES] = src[i + LANES];
        dst[i + 2u * LANES] = src[i + 2u * LANES];
        dst[i + 3u * LANES] = src[i + 3u * LANES];
        dst[i + 4u * LANES] = src[i + 4u * LANES];
        dst[i + 5u * LANES] = src[i + 5u * LANES];
        dst[i + 6u * LANES] = src[i + 6u * LANES];
        dst[i + 7u * LANES] = src[i + 7u * LANES];
    } else {
        for (var k = i; k < p.n4; k += LANES) { dst[k] = src[k]; }
    }
}
