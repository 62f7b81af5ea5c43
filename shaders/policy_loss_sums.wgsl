// sums (rows, 8), row `row`: over `tokens` tokens of a batch from `first` on, terms (P, 8) of policy_loss added up, but for the sixth, whose
// largest is taken; the seventh is the sum of entropy (P), the eighth the number of tokens. One workgroup.
// Appended: shared/row_reduce.wgsl.

override LANES: u32 = 64u;

struct Params {
    tokens: u32,
    row: u32,
    first: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> terms: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> entropy: array<f32>;
@group(0) @binding(2) var<storage, read_write> sums: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_id) local: vec3<u32>) {
    let lane = local.x;
    var first = vec4<f32>(0.0);
    var mismatch = 0.0;
    var largest = 0.0;
    var spread = 0.0;
    for (var i = p.first + lane; i < p.first + p.tokens; i += LANES) {
        first += terms[2u * i];
        let second = terms[2u * i + 1u];
        mismatch += second.x;
        largest = max(largest, second.y);
        spread += entropy[i];
    }
    let head = vec4<f32>(reduce_add(lane, first.x), reduce_add(lane, first.y), reduce_add(lane, first.z), reduce_add(lane, first.w));
    let tail = vec4<f32>(reduce_add(lane, mismatch), reduce_max(lane, largest), reduce_add(lane, spread), f32(p.tokens));
    if lane == 0u {
        sums[2u * p.row] = head;
        sums[2u * p.row + 1u] = tail;
    }
}
