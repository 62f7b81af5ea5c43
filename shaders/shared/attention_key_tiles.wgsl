// For attention_*_tiled.wgsl whose left rows are LEFT neighbouring keys of the packed layout: the right rows are query rows of one head, RIGHT
// at a time, from the first key's own row to the last that reads any of the keys.

var<private> key0: u32;
var<private> row0: u32; // the tile's first query row
var<private> kv_head: u32;
var<private> head: u32;

// Begins with the workgroup's keys; returns the end of the query rows.
fn rows_end(group: vec3<u32>) -> u32 {
    key0 = group.x * LEFT;
    kv_head = group.y;
    var end = 0u;
    for (var n = 0u; n < LEFT; n++) { end = max(end, key_ends[min(key0 + n, p.m - 1u)]); }
    return min(end, p.m);
}

fn takes_part(n: u32) -> bool { return true; }

// Which of (M, KV) key n is; past the end, the last.
fn key_at(n: u32) -> u32 { return min(key0 + n, p.m - 1u) * p.kv_heads + kv_head; }

// Which of (M, H) the tile's query row n is; past the end, the last.
fn query_at(n: u32) -> u32 { return min(row0 + n, p.m - 1u) * p.heads + head; }

// The keys of a thread, and where the query rows that read them end.
fn keys_of(quad: u32) -> vec4<u32> { return key0 + quad + LEFT / 4u * vec4<u32>(0u, 1u, 2u, 3u); }

fn ends_of(keys: vec4<u32>) -> vec4<u32> {
    let j = min(keys, vec4<u32>(p.m - 1u));
    return min(vec4<u32>(key_ends[j.x], key_ends[j.y], key_ends[j.z], key_ends[j.w]), vec4<u32>(p.m));
}

// Which of a thread's keys the query row reads.
fn reads(row: u32, keys: vec4<u32>, end: vec4<u32>) -> vec4<bool> {
    return (vec4<u32>(row) >= keys) & (vec4<u32>(row) < end);
}
