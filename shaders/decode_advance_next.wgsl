// The inputs of the next step. Rows still active: next_token = token, and meta's position and cache_row move on by one.
// Other rows: next_token = 0, the rest stays. remaining (1) = active rows. One workgroup.
// Appended: shared/row_reduce.wgsl.

override LANES: u32 = 8u;

struct Params {
    m: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> token: array<u32>;
@group(0) @binding(1) var<storage, read> keys: array<vec4<u32>>; // key0, key1, position, active
@group(0) @binding(2) var<storage, read_write> rows: array<vec4<u32>>; // prefix_start, prefix_len, own_start, position
@group(0) @binding(3) var<storage, read_write> next_token: array<u32>;
@group(0) @binding(4) var<storage, read_write> cache_row: array<u32>;
@group(0) @binding(5) var<storage, read_write> remaining: array<u32>;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_id) local: vec3<u32>) {
    let lane = local.x;
    var count = 0u;
    for (var row = lane; row < p.m; row += LANES) {
        let on = keys[row].w != 0u;
        next_token[row] = select(0u, token[row], on);
        if on {
            count++;
            rows[row].w += 1u;
            cache_row[row] += 1u;
        }
    }
    let total = reduce_count(lane, count);
    if lane == 0u { remaining[0] = total; }
}
