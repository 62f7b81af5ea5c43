// attention_kv_gradient.wgsl for subgroups of exactly LANES (8) threads: eight key rows of one KV head a workgroup, blocks of eight
// query rows.
// Appended: shared/attention_subgroup.wgsl, attention_subgroup_gradient.wgsl (for keys), attention_params.wgsl, attention_math.wgsl.

@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> key_ends: array<u32>;
@group(0) @binding(5) var<storage, read> lse: array<f32>;
@group(0) @binding(6) var<storage, read> delta: array<f32>;
@group(0) @binding(7) var<storage, read_write> out: array<f32>;

fn left_element(at: u32) -> f32 { return k[at]; }

fn put(at: u32, x: f32) { out[at] = x; }

//#if VALUES
@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> dout: array<f32>;

fn other4(at: u32) -> vec4<f32> { return q[at]; }

fn right_element(at: u32) -> f32 { return dout[at]; }

fn load_second(at: Rows, lane: u32) {}

fn second_scores(at: u32) -> Eight { return Eight(); }

fn add_block(row: u32, score: f32, gradient: f32, log_sum: f32, shift: f32, seen: bool) {
    add_right(row, select(0.0, probabilities(vec4<f32>(score), p.scale, vec4<f32>(log_sum)).x, seen), 1.0);
}
//#else
@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(4) var<storage, read> dout: array<vec4<f32>>;

fn other4(at: u32) -> vec4<f32> { return vec4<f32>(q[4u * at], q[4u * at + 1u], q[4u * at + 2u], q[4u * at + 3u]); }

fn right_element(at: u32) -> f32 { return q[at]; }

fn second_left(at: u32) -> f32 { return v[at]; }

fn second4(at: u32) -> vec4<f32> { return dout[at]; }

fn add_block(row: u32, score: f32, gradient: f32, log_sum: f32, shift: f32, seen: bool) {
    add_gradient(row, score, gradient, log_sum, shift, seen);
}
//#end

// Where the query rows that read eight keys end.
fn ends_of(r: Rows) -> Rows {
    return Rows(min(vec4<u32>(key_ends[r.a.x], key_ends[r.a.y], key_ends[r.a.z], key_ends[r.a.w]), vec4<u32>(p.m)),
                min(vec4<u32>(key_ends[r.b.x], key_ends[r.b.y], key_ends[r.b.z], key_ends[r.b.w]), vec4<u32>(p.m)));
}

fn last_end(ends: Rows) -> u32 {
    let m = max(ends.a, ends.b);
    return max(max(m.x, m.y), max(m.z, m.w));
}

fn reads(query: u32, key: u32, end: u32) -> bool { return query >= key && query < end; }

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let row = group.x * 8u;
    let width = p.kv_heads * D4 * 4u;
    let rows = rows_from(row, p.m - 1u);
    let at = starts(rows, width, group.y * D4 * 4u);
    load_left(at, lane);
    load_second(at, lane);
    let ends = ends_of(rows);
    let last = last_end(ends);
    let shared_heads = p.heads / p.kv_heads;
    for (var head = group.y * shared_heads; head < (group.y + 1u) * shared_heads; head++) {
        for (var i = row; i < last; i += 8u) {
            let reader = i + lane;
            let own = min(reader, p.m - 1u) * p.heads + head;
            let s = scores(own * D4);
            let g = second_scores(own * D4);
            load_right(starts(rows_from(i, p.m - 1u), p.heads * D4 * 4u, head * D4 * 4u), lane);
            let z = lse[own];
            var y = 0.0;
            if !VALUES { y = delta[own]; }
            add_block(0u, s.a.x, g.a.x, z, y, reads(reader, row, ends.a.x));
            add_block(1u, s.a.y, g.a.y, z, y, reads(reader, row + 1u, ends.a.y));
            add_block(2u, s.a.z, g.a.z, z, y, reads(reader, row + 2u, ends.a.z));
            add_block(3u, s.a.w, g.a.w, z, y, reads(reader, row + 3u, ends.a.w));
            add_block(4u, s.b.x, g.b.x, z, y, reads(reader, row + 4u, ends.b.x));
            add_block(5u, s.b.y, g.b.y, z, y, reads(reader, row + 5u, ends.b.y));
            add_block(6u, s.b.z, g.b.z, z, y, reads(reader, row + 6u, ends.b.z));
            add_block(7u, s.b.w, g.b.w, z, y, reads(reader, row + 7u, ends.b.w));
        }
    }
    store_sums(min(8u, p.m - row), row * width + group.y * D4 * 4u + lane, width, lane);
}
