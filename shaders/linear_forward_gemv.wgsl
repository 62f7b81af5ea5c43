// y (M, N) = alpha · x (M, K) · Wᵀ (N, K) [+ linear_output.wgsl's], for few rows on GPUs: a decode step.
// Appended: linear_forward.wgsl's.
// A workgroup is 8 rows by 32 columns, so W is read and dequantised once for all of up to 8 rows; a lane is four rows of one
// column. 64 K of W and of x go through workgroup memory, so that lanes load along K and compute along N; the next 64 wait
// in registers. The chain of every output is that of linear_forward.wgsl, bit for bit: past the end of K it adds zeros.

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;

// What `with_weight` reads from a column on: the eight vec4s of W that a lane loads for 64 K.
alias At = u32;
struct Work {
    a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>, e: vec4<f32>, f: vec4<f32>, g: vec4<f32>, h: vec4<f32>,
}

// And two of x.
struct Chunk { w: Work, x0: vec4<f32>, x1: vec4<f32> }

var<workgroup> w_tile: array<vec4<f32>, 512>;
var<workgroup> x_tile: array<vec4<f32>, 128>;

// Columns are permuted from one vec4 of K to the next, so that stores along K meet different banks.
fn place(k: u32, col: u32) -> u32 {
    return k * 32u + (col ^ k);
}

// Past K they meet zeros.
fn work(c: At, past: u32) -> Work {
    let k = min(past, p.k4 - 1u);
    return Work(side4(0u, row_of(c), k), side4(0u, row_of(c + 4u), k),
                  side4(0u, row_of(c + 8u), k), side4(0u, row_of(c + 12u), k),
                  side4(1u, row_of(c + 16u), k), side4(1u, row_of(c + 20u), k),
                  side4(1u, row_of(c + 24u), k), side4(1u, row_of(c + 28u), k));
}

// Rows past M repeat the last and are not stored; past K they are 0.
fn values(row: u32, k: u32) -> vec4<f32> {
    let v = x[min(row, p.m - 1u) * p.x_stride + min(k, p.k4 - 1u)];
    return select(vec4<f32>(), v, k < p.k4);
}

// Sixteen lanes load 64 consecutive K of a row of W, and of x.
fn chunk(first: u32, row: u32, col: u32, lane: u32) -> Chunk {
    let k = first + lane % 16u;
    let r = row + lane / 16u;
    return Chunk(with_weight(col + lane / 16u, k), values(r, k), values(r + 4u, k));
}

fn stage(lane: u32, v: Chunk) {
    let k = lane % 16u;
    let c = lane / 16u;
    let w = v.w;
    w_tile[place(k, c)] = w.a; w_tile[place(k, c + 4u)] = w.b;
    w_tile[place(k, c + 8u)] = w.c; w_tile[place(k, c + 12u)] = w.d;
    w_tile[place(k, c + 16u)] = w.e; w_tile[place(k, c + 20u)] = w.f;
    w_tile[place(k, c + 24u)] = w.g; w_tile[place(k, c + 28u)] = w.h;
    x_tile[lane] = v.x0;
    x_tile[lane + 64u] = v.x1;
}

fn dot_chain(a: vec4<f32>, b: vec4<f32>, c: f32) -> f32 {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, c))));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * 8u;
    let col = begin(group) * 32u;
    let own_row = lane / 32u * 4u;
    let own_col = lane % 32u;
    // With four rows or fewer the upper 32 lanes only load.
    let computes = row + own_row < p.m;
    var s0 = 0.0; var s1 = 0.0; var s2 = 0.0; var s3 = 0.0;
    // A chunk is on its way from memory while the one before it is computed on.
    for (var first = 0u; first < p.k4 + 16u; first += 16u) {
        let more = first < p.k4;
        var next = Chunk();
        if more { next = chunk(first, row, col, lane); }
        if computes && first > 0u {
            for (var k = 0u; k < 16u; k++) {
                let w = w_tile[place(k, own_col)];
                let at = own_row * 16u + k;
                s0 = dot_chain(x_tile[at], w, s0);
                s1 = dot_chain(x_tile[at + 16u], w, s1);
                s2 = dot_chain(x_tile[at + 32u], w, s2);
                s3 = dot_chain(x_tile[at + 48u], w, s3);
            }
        }
        workgroupBarrier();
        if more { stage(lane, next); }
        workgroupBarrier();
    }
    let r = row + own_row;
    let c = col + own_col;
    var t0 = 0.0; var t1 = 0.0; var t2 = 0.0; var t3 = 0.0;
    if LORA {
        let side = own_col / 16u;
        for (var k = 0u; k < rank4(); k++) {
            let b = second4(side, c, k);
            t0 = dot_chain(hidden4(side, r, k), b, t0);
            t1 = dot_chain(hidden4(side, r + 1u, k), b, t1);
            t2 = dot_chain(hidden4(side, r + 2u, k), b, t2);
            t3 = dot_chain(hidden4(side, r + 3u, k), b, t3);
        }
    }
    store_rows(r, c, lane, vec4<f32>(s0, s1, s2, s3), vec4<f32>(t0, t1, t2, t3));
}
