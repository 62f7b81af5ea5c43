// attention_forward.wgsl for subgroups of exactly LANES (8) threads: eight rows of one head a workgroup, blocks of eight keys.
// Appended: shared/attention_subgroup.wgsl, attention_runs.wgsl, attention_kv.wgsl, attention_params.wgsl, attention_rows.wgsl,
// attention_math.wgsl.

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read> rows_meta: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;

var<private> tops: array<f32, 8>;
var<private> norms: array<f32, 8>;

fn left_element(at: u32) -> f32 { return q[at]; }

fn other4(at: u32) -> vec4<f32> { return key4(at); }

fn right_element(at: u32) -> f32 { return value(at); }

fn put(at: u32, x: f32) { out[at] = x; }

fn highest(x: f32, lane: u32) -> f32 {
    let a = max(x, subgroupShuffle(x, lane ^ 1u));
    let b = max(a, subgroupShuffle(a, lane ^ 2u));
    return max(b, subgroupShuffle(b, lane ^ 4u));
}

// In pairs of neighbours, as attention_forward.wgsl adds a block.
fn total(x: f32, lane: u32) -> f32 {
    let a = x + subgroupShuffle(x, lane ^ 1u);
    let b = a + subgroupShuffle(a, lane ^ 2u);
    return b + subgroupShuffle(b, lane ^ 4u);
}

// `last` is the row's last position. A row that is not of the run is left alone: 0 times what is not finite would be another
// sequence's trouble.
fn add_block(row: u32, score: f32, position: i32, last: i32, lane: u32) {
    if last < 0 { return; }
    let seen = position <= last;
    let a = select(-3e38, score * p.scale, seen);
    let top = tops[row];
    let new_top = max(top, highest(a, lane));
    // exp(0) need not be exactly 1 on every driver.
    let correction = select(exp(max(top - new_top, -80.0)), 1.0, new_top == top);
    let e = select(0.0, exp(max(a - new_top, -80.0)), seen);
    norms[row] = fma(norms[row], correction, total(e, lane));
    tops[row] = new_top;
    add_right(row, e, correction);
}

fn normalise(row: u32) {
    let inverse = 1.0 / norms[row];
    sums[row] = Eight(sums[row].a * inverse, sums[row].b * inverse);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let head = group.y;
    let row = group.x * 8u;
    let width = p.heads * D4 * 4u;
    let stride = p.kv_heads * D4 * 4u;
    let offset = head / (p.heads / p.kv_heads) * D4 * 4u;
    let rows = rows_from(row, p.m - 1u);
    load_left(starts(rows, width, head * D4 * 4u), lane);
    tops = array<f32, 8>(-3e38, -3e38, -3e38, -3e38, -3e38, -3e38, -3e38, -3e38);
    norms = array<f32, 8>();
    let c = shared_meta(row, p.m);
    let joint = joint_positions(c);
    var run = Run(c.first, 0u, LANES, 0u, joint);
    var next = 0u;
    loop {
        let last = last_positions(run, rows);
        for (var block = run.begin; block < run.stop; block += 8u) {
            let s = scores((key_row(run.keys, block + lane, run.stop - 1u) * stride + offset) / 4u);
            load_right(key_rows(run.keys, block, run.stop - 1u, stride, offset), lane);
            let position = i32(block + lane);
            add_block(0u, s.a.x, position, last.a.x, lane);
            add_block(1u, s.a.y, position, last.a.y, lane);
            add_block(2u, s.a.z, position, last.a.z, lane);
            add_block(3u, s.a.w, position, last.a.w, lane);
            add_block(4u, s.b.x, position, last.b.x, lane);
            add_block(5u, s.b.y, position, last.b.y, lane);
            add_block(6u, s.b.z, position, last.b.z, lane);
            add_block(7u, s.b.w, position, last.b.w, lane);
        }
        if next >= LANES { break; }
        run = run_from(row, next, joint);
        next = run.end;
    }
    normalise(0u); normalise(1u); normalise(2u); normalise(3u);
    normalise(4u); normalise(5u); normalise(6u); normalise(7u);
    let count = min(8u, p.m - row);
    store_sums(count, row * width + head * D4 * 4u + lane, width, lane);
    var top = tops;
    var norm = norms;
    if lane < count { lse[(row + lane) * p.heads + head] = top[lane] + log(norm[lane]); }
}
