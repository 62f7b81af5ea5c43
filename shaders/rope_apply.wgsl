// In place, q (M, H, D) and k (M, KV, D): (x1, x2) ← (x1·cos − x2·sin, x2·cos + x1·sin), x1 = x[..D/2], x2 = x[D/2..]
// Appended: shared/rope.wgsl.

@group(0) @binding(1) var<storage, read_write> k: array<vec2<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let id = (group.y * 65535u + group.x) * LANES + local.x;
    let heads = p.heads + p.kv_heads;
    let row = id / p.half2 / heads;
    if row >= p.m { return; }
    let head = id / p.half2 % heads;
    let pair = id % p.half2;
    if head < p.heads {
        turn_q((row * p.heads + head) * 2u * p.half2 + pair, row, pair);
        return;
    }
    let at = (row * p.kv_heads + head - p.heads) * 2u * p.half2 + pair;
    let r = turned(k[at], k[at + p.half2], row, pair);
    k[at] = r.xy;
    k[at + p.half2] = r.zw;
}
