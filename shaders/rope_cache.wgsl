// q (M, H, D) turned in place; k (M, KV, D) turned and v (M, KV, D) as it is go to rows index[i] of their caches, distinct.
// An index past the end drops its row.
// A lane's two neighbouring elements are a word of halves, so that no two lanes share one.
// Appended: shared/rope.wgsl, and halves.wgsl where the caches are in halves (HALF).

@group(0) @binding(1) var<storage, read> k: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> v: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read> index: array<u32>;

//#if HALF
// Two neighbouring elements a word, the first in the low bits.
alias Two = u32;
fn two(x: vec2<f32>) -> Two { return halves(x); }
//#else
alias Two = vec2<f32>;
fn two(x: vec2<f32>) -> Two { return x; }
//#end
@group(0) @binding(6) var<storage, read_write> k_cache: array<Two>;
@group(0) @binding(7) var<storage, read_write> v_cache: array<Two>;

fn put_key(at: u32, x: vec2<f32>) { k_cache[at] = two(x); }

fn put_value(at: u32, x: vec2<f32>) { v_cache[at] = two(x); }

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let id = (group.y * 65535u + group.x) * LANES + local.x;
    let heads = p.heads + 2u * p.kv_heads;
    let row = id / p.half2 / heads;
    if row >= p.m { return; }
    let head = id / p.half2 % heads;
    let pair = id % p.half2;
    if head < p.heads {
        turn_q((row * p.heads + head) * 2u * p.half2 + pair, row, pair);
        return;
    }
    let width = p.kv_heads * 2u * p.half2;
    let origin = index[row];
    if origin >= arrayLength(&k_cache) / width { return; }
    let column = (head - p.heads) % p.kv_heads * 2u * p.half2 + pair;
    let at = row * width + column;
    let to = origin * width + column;
    if head < p.heads + p.kv_heads {
        let r = turned(k[at], k[at + p.half2], row, pair);
        put_key(to, r.xy);
        put_key(to + p.half2, r.zw);
    } else {
        put_value(to, v[at]);
        put_value(to + p.half2, v[at + p.half2]);
    }
}
