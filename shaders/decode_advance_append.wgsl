// After sampling, for every active row: append token and logp to out_tokens, out_logp (M, max_len) at its length, count
// it, move its position on, and set active = 0 if the token stops it or its limit is reached. Other rows are left alone.
// A lane a row; keys and length are updated in place. Token t stops a row if bit t % 32 of stop[t / 32] is set: one
// lookup, however many stop tokens there are.

override LANES: u32 = 8u;

struct Params {
    m: u32,
    max_len: u32,
    words: u32, // in stop; tokens beyond them stop nothing
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> token: array<u32>;
@group(0) @binding(1) var<storage, read> logp: array<f32>;
@group(0) @binding(2) var<storage, read> stop: array<u32>;
@group(0) @binding(3) var<storage, read_write> keys: array<vec4<u32>>; // key0, key1, position, active
@group(0) @binding(4) var<storage, read_write> length: array<u32>;
@group(0) @binding(5) var<storage, read> limit: array<u32>;
@group(0) @binding(6) var<storage, read_write> out_tokens: array<u32>;
@group(0) @binding(7) var<storage, read_write> out_logp: array<f32>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = (group.y * 65535u + group.x) * LANES + local.x;
    if row >= p.m { return; }
    var key = keys[row];
    if key.w == 0u { return; }
    let most = min(limit[row], p.max_len);
    let at = length[row];
    if at >= most {
        // Nothing may be appended: a limit of 0.
        key.w = 0u;
        keys[row] = key;
        return;
    }
    let t = token[row];
    out_tokens[row * p.max_len + at] = t;
    out_logp[row * p.max_len + at] = logp[row];
    length[row] = at + 1u;
    key.z += 1u;
    let word = t >> 5u;
    if word < p.words {
        if ((stop[word] >> (t & 31u)) & 1u) != 0u { key.w = 0u; }
    }
    if at + 1u >= most { key.w = 0u; }
    keys[row] = key;
}
