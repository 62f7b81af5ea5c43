// logits (M, width) become dlogits = dlogp · (onehot(target) − softmax), padding columns 0. In place.
// softmax = e^((logit − max) − log Σ e^(x−max)); lse holds the two.

override LANES: u32 = 8u;

struct Params {
    m: u32,
    width: u32,
    stride4: u32,      // vec4s from one row to the next
    first_column: u32, // vocabulary index of column 0
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> targets: array<u32>;
@group(0) @binding(1) var<storage, read> lse: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> dlogp: array<f32>;
@group(0) @binding(3) var<storage, read_write> logits: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.z * 65535u + group.y;
    let c = group.x * LANES + local.x;
    if row >= p.m || c >= p.stride4 { return; }
    let column = vec4<u32>(4u * c) + vec4<u32>(0u, 1u, 2u, 3u);
    let hit = column + vec4<u32>(p.first_column) == vec4<u32>(targets[row]);
    let at = row * p.stride4 + c;
    let d = max((logits[at] - vec4<f32>(lse[row].x)) - vec4<f32>(lse[row].y), vec4<f32>(-100.0));
    let g = dlogp[row] * (select(vec4<f32>(), vec4<f32>(1.0), hit) - exp(d));
    logits[at] = select(vec4<f32>(), g, column < vec4<u32>(p.width));
}
