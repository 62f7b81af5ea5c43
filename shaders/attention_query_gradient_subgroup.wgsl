// attention_query_gradient.wgsl for subgroups of exactly LANES (8) threads: eight rows of one head a workgroup, blocks of eight keys.
// Appended: shared/attention_subgroup.wgsl, attention_subgroup_gradient.wgsl, attention_runs.wgsl, attention_params.wgsl,
// attention_rows.wgsl, attention_math.wgsl.

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> rows_meta: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> dout: array<f32>;
@group(0) @binding(5) var<storage, read> lse: array<f32>;
@group(0) @binding(6) var<storage, read> delta: array<f32>;
@group(0) @binding(7) var<storage, read_write> dq: array<f32>;

fn left_element(at: u32) -> f32 { return q[at]; }

fn second_left(at: u32) -> f32 { return dout[at]; }

fn other4(at: u32) -> vec4<f32> { return vec4<f32>(k[4u * at], k[4u * at + 1u], k[4u * at + 2u], k[4u * at + 3u]); }

fn second4(at: u32) -> vec4<f32> { return v[at]; }

fn right_element(at: u32) -> f32 { return k[at]; }

fn put(at: u32, x: f32) { dq[at] = x; }

// As in attention_forward_subgroup.wgsl, a row that is not of the run is left alone.
fn add_block(row: u32, score: f32, gradient: f32, log_sum: f32, shift: f32, position: i32, last: i32) {
    if last < 0 { return; }
    add_gradient(row, score, gradient, log_sum, shift, position <= last);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let head = group.y;
    let row = group.x * 8u;
    let width = p.heads * D4 * 4u;
    let stride = p.kv_heads * D4 * 4u;
    let offset = head / (p.heads / p.kv_heads) * D4 * 4u;
    let rows = rows_from(row, p.m - 1u);
    let at = starts(rows, width, head * D4 * 4u);
    load_left(at, lane);
    load_second(at, lane);
    let h = starts(rows, p.heads, head);
    let z = Eight(vec4<f32>(lse[h.a.x], lse[h.a.y], lse[h.a.z], lse[h.a.w]),
                  vec4<f32>(lse[h.b.x], lse[h.b.y], lse[h.b.z], lse[h.b.w]));
    let y = Eight(vec4<f32>(delta[h.a.x], delta[h.a.y], delta[h.a.z], delta[h.a.w]),
                  vec4<f32>(delta[h.b.x], delta[h.b.y], delta[h.b.z], delta[h.b.w]));
    let c = shared_meta(row, p.m);
    let joint = joint_positions(c);
    var run = Run(c.first, 0u, LANES, 0u, joint);
    var next = 0u;
    loop {
        let last = last_positions(run, rows);
        for (var block = run.begin; block < run.stop; block += 8u) {
            let own = (key_row(run.keys, block + lane, run.stop - 1u) * stride + offset) / 4u;
            let s = scores(own);
            let g = second_scores(own);
            load_right(key_rows(run.keys, block, run.stop - 1u, stride, offset), lane);
            let position = i32(block + lane);
            add_block(0u, s.a.x, g.a.x, z.a.x, y.a.x, position, last.a.x);
            add_block(1u, s.a.y, g.a.y, z.a.y, y.a.y, position, last.a.y);
            add_block(2u, s.a.z, g.a.z, z.a.z, y.a.z, position, last.a.z);
            add_block(3u, s.a.w, g.a.w, z.a.w, y.a.w, position, last.a.w);
            add_block(4u, s.b.x, g.b.x, z.b.x, y.b.x, position, last.b.x);
            add_block(5u, s.b.y, g.b.y, z.b.y, y.b.y, position, last.b.y);
            add_block(6u, s.b.z, g.b.z, z.b.z, y.b.z, position, last.b.z);
            add_block(7u, s.b.w, g.b.w, z.b.w, y.b.w, position, last.b.w);
        }
        if next >= LANES { break; }
        run = run_from(row, next, joint);
        next = run.end;
    }
    store_sums(min(8u, p.m - row), row * width + head * D4 * 4u + lane, width, lane);
}
