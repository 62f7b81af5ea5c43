// Sums of a buffer: the bandwidth of a kernel that only reads. A workgroup sums `chunk` rounds of eight vec4s a lane;
// every lane writes its own sum.

override LANES: u32 = 64u;

struct Params {
    n4: u32,    // vec4s in the buffer
    chunk: u32, // rounds a workgroup
    count: u32, // outputs
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> src: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let g = group.y * grid.x + group.x;
    let first = g * p.chunk * LANES * 8u + lane;
    var a = vec4<f32>();
    var b = vec4<f32>();
    var c = vec4<f32>();
    var d = vec4<f32>();
    // Whole rounds only: the caller makes the buffer a whole number of them.
    for (var r = 0u; r < p.chunk; r++) {
        let i = first + r * LANES * 8u;
        if i + 7u * LANES >= p.n4 { break; }
        a += src[i] + src[i + LANES];
        b += src[i + 2u * LANES] + src[i + 3u * LANES];
        c += src[i + 4u * LANES] + src[i + 5u * LANES];
        d += src[i + 6u * LANES] + src[i + 7u * LANES];
    }
    let s = (a + b) + (c + d);
    let at = g * LANES + lane;
    if at < p.count { out[at] = (s.x + s.y) + (s.z + s.w); }
}
