// attention_value_gradient.wgsl for subgroups of exactly LANES (8) threads: eight key rows of one KV head a workgroup, blocks of eight
// query rows.
// Appended: shared/attention_subgroup.wgsl, attention_readers.wgsl, attention_params.wgsl, attention_math.wgsl.

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> key_ends: array<u32>;
@group(0) @binding(3) var<storage, read> dout: array<f32>;
@group(0) @binding(4) var<storage, read> lse: array<f32>;
@group(0) @binding(5) var<storage, read_write> dv: array<f32>;

fn left_element(at: u32) -> f32 { return k[at]; }

fn other4(at: u32) -> vec4<f32> { return q[at]; }

fn right_element(at: u32) -> f32 { return dout[at]; }

fn put(at: u32, x: f32) { dv[at] = x; }

fn add_block(row: u32, score: f32, log_sum: f32, seen: bool) {
    add_right(row, select(0.0, probabilities(vec4<f32>(score), p.scale, vec4<f32>(log_sum)).x, seen), 1.0);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let row = group.x * 8u;
    let width = p.kv_heads * D4 * 4u;
    let rows = rows_from(row, p.m - 1u);
    load_left(starts(rows, width, group.y * D4 * 4u), lane);
    let ends = ends_of(rows);
    let last = last_end(ends);
    let shared_heads = p.heads / p.kv_heads;
    for (var head = group.y * shared_heads; head < (group.y + 1u) * shared_heads; head++) {
        for (var i = row; i < last; i += 8u) {
            let reader = i + lane;
            let own = min(reader, p.m - 1u) * p.heads + head;
            let s = scores(own * D4);
            load_right(starts(rows_from(i, p.m - 1u), p.heads * D4 * 4u, head * D4 * 4u), lane);
            let z = lse[own];
            add_block(0u, s.a.x, z, reads(reader, row, ends.a.x));
            add_block(1u, s.a.y, z, reads(reader, row + 1u, ends.a.y));
            add_block(2u, s.a.z, z, reads(reader, row + 2u, ends.a.z));
            add_block(3u, s.a.w, z, reads(reader, row + 3u, ends.a.w));
            add_block(4u, s.b.x, z, reads(reader, row + 4u, ends.b.x));
            add_block(5u, s.b.y, z, reads(reader, row + 5u, ends.b.y));
            add_block(6u, s.b.z, z, reads(reader, row + 6u, ends.b.z));
            add_block(7u, s.b.w, z, reads(reader, row + 7u, ends.b.w));
        }
    }
    store_sums(min(8u, p.m - row), row * width + group.y * D4 * 4u + lane, width, lane);
}
