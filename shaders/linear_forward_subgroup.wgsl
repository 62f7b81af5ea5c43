// y (M, N) = alpha · x (M, K) · Wᵀ (N, K) [+ linear_output.wgsl's], for subgroups of exactly LANES threads.
// Appended: linear_forward.wgsl's.
// A workgroup is ROWS rows, a lane four columns. x goes through registers: each lane loads one of the next LANES (8) values of a row, and they are
// broadcast one after another. The chain of every output is that of linear_forward.wgsl, bit for bit: past the end of
// K it adds zeros.

override LANES: u32 = 8u;

@group(0) @binding(0) var<storage, read> x: array<f32>;

// Eight consecutive K of four columns; a member is one K.
struct Eight {
    a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>,
    e: vec4<f32>, f: vec4<f32>, g: vec4<f32>, h: vec4<f32>,
}

// Past the end of K they repeat the last four: `values` are 0 there.
fn eight(n: vec4<u32>, k4: u32) -> Eight {
    let k = min(k4, p.k4 - 1u);
    let last = min(k4 + 1u, p.k4 - 1u);
    let q = side4(0u, n.x, k); let r = side4(0u, n.y, k); let s = side4(1u, n.z, k); let t = side4(1u, n.w, k);
    let u = side4(0u, n.x, last); let v = side4(0u, n.y, last); let w = side4(1u, n.z, last); let z = side4(1u, n.w, last);
    return Eight(vec4<f32>(q.x, r.x, s.x, t.x), vec4<f32>(q.y, r.y, s.y, t.y),
                 vec4<f32>(q.z, r.z, s.z, t.z), vec4<f32>(q.w, r.w, s.w, t.w),
                 vec4<f32>(u.x, v.x, w.x, z.x), vec4<f32>(u.y, v.y, w.y, z.y),
                 vec4<f32>(u.z, v.z, w.z, z.z), vec4<f32>(u.w, v.w, w.w, z.w));
}

// One value of the row that starts at `at` in each lane.
fn values(at: u32, column: u32) -> f32 {
    return select(0.0, x[at + min(column, p.k4 * 4u - 1u)], column < p.k4 * 4u);
}

fn chain8(v: f32, w: Eight, s: vec4<f32>) -> vec4<f32> {
    var t = fma(vec4<f32>(subgroupBroadcast(v, 0u)), w.a, s);
    t = fma(vec4<f32>(subgroupBroadcast(v, 1u)), w.b, t);
    t = fma(vec4<f32>(subgroupBroadcast(v, 2u)), w.c, t);
    t = fma(vec4<f32>(subgroupBroadcast(v, 3u)), w.d, t);
    t = fma(vec4<f32>(subgroupBroadcast(v, 4u)), w.e, t);
    t = fma(vec4<f32>(subgroupBroadcast(v, 5u)), w.f, t);
    t = fma(vec4<f32>(subgroupBroadcast(v, 6u)), w.g, t);
    return fma(vec4<f32>(subgroupBroadcast(v, 7u)), w.h, t);
}

// Four consecutive R of four columns of B; a member is one R.
struct Second { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }

fn second_weights(col: u32, k: u32) -> Second {
    let q = second4(0u, col, k); let r = second4(0u, col + 1u, k);
    let s = second4(1u, col + 2u, k); let t = second4(1u, col + 3u, k);
    return Second(vec4<f32>(q.x, r.x, s.x, t.x), vec4<f32>(q.y, r.y, s.y, t.y),
                  vec4<f32>(q.z, r.z, s.z, t.z), vec4<f32>(q.w, r.w, s.w, t.w));
}

fn chain4(h: Hidden, w: Second, s: vec4<f32>) -> vec4<f32> {
    let a = h.first;
    let b = h.second;
    let t = fma(vec4<f32>(a.yy, b.yy), w.b, fma(vec4<f32>(a.xx, b.xx), w.a, s));
    return fma(vec4<f32>(a.ww, b.ww), w.d, fma(vec4<f32>(a.zz, b.zz), w.c, t));
}

// The rows of W behind four columns.
fn rows_of(col: u32) -> vec4<u32> {
    return vec4<u32>(row_of(col), row_of(col + 1u), row_of(col + 2u), row_of(col + 3u));
}

// What `with_weight` reads: the rows of W of a lane's columns. The whole sums of the workgroup's rows.
struct At { n: vec4<u32>, lane: u32 }
alias Work = array<vec4<f32>, ROWS>;

// Rows past the last repeat it and are not stored.
fn work(at: At, row: u32) -> Work {
    let last = p.m - 1u;
    let stride = p.x_stride * 4u;
    //#each r ROWS: let b{r} = min(row + {r}u, last) * stride;
    //#each r ROWS: var s{r} = vec4<f32>();
    for (var k = 0u; k < p.k4; k += 2u * EIGHTS) {
        let c = k * 4u + at.lane;
        //#each r ROWS: let u{r} = values(b{r}, c);
        let w = eight(at.n, k);
        //#if EIGHTS == 2
        //#each r ROWS: let v{r} = values(b{r}, c + 8u);
        let z = eight(at.n, k + 2u);
        //#each r ROWS: s{r} = chain8(v{r}, z, chain8(u{r}, w, s{r}));
        //#else
        //#each r ROWS: s{r} = chain8(u{r}, w, s{r});
        //#end
    }
    var all: Work;
    //#each r ROWS: all[{r}] = s{r};
    return all;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>,
        @builtin(subgroup_invocation_id) lane: u32) {
    let col = (begin(group) * LANES + local.x) * 4u;
    let row = group.y * ROWS;
    var outputs = with_weight(At(rows_of(col), lane), row);
    //#each r ROWS: var t{r} = vec4<f32>();
    if LORA {
        for (var k = 0u; k < rank4(); k++) {
            let b = second_weights(col, k);
            //#each r ROWS: t{r} = chain4(hidden_sides(row + {r}u, k), b, t{r});
        }
    }
    var seconds: Work;
    //#each r ROWS: seconds[{r}] = t{r};
    // One place in the code that stores: sixteen take drivers long to compile.
    for (var r = 0u; r < ROWS; r++) { store_four(row + r, col, outputs[r], seconds[r]); }
}
