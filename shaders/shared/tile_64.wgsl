// 64 × 64 outputs by 64 threads, 8 × 8 each, for linear_*_tile.wgsl. Those give
//   steps()                    the length of the reduced index,
//   left(first, rows, lane)    what a lane brings of 64 rows' factors for 16 steps, and stage_left to put it down,
//   right(first, cols, lane)   the same of 64 columns, and stage_right,
//   start(row, col), store(row, col, value)   four neighbouring columns of the output.
// Every output is one chain of fused multiply-adds in ascending order; past its end the left factors are 0.

// Four vec4s that a lane loads for one side of a chunk.
struct Four { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }

// Two halves, each 16 steps of 64 rows and 16 steps of 64 columns: one is computed on while the other is filled.
var<workgroup> tile: array<vec4<f32>, 1024>;

// Four neighbours of step `at`. Groups are permuted from one four steps to the next, so that the lanes of a turned store meet
// different banks.
fn place(at: u32, neighbours: u32) -> u32 {
    return at * 16u + (neighbours ^ ((at >> 1u) & 6u));
}

// Steps 4 · (lane % 4) and the three after it, of the rows or columns 4 · (lane / 4) + 0, 1, 2, 3: a member each.
fn stage_turned(at: u32, lane: u32, v: Four) {
    let s = (lane % 4u) * 4u;
    let g = lane / 4u;
    tile[at + place(s, g)] = vec4<f32>(v.a.x, v.b.x, v.c.x, v.d.x);
    tile[at + place(s + 1u, g)] = vec4<f32>(v.a.y, v.b.y, v.c.y, v.d.y);
    tile[at + place(s + 2u, g)] = vec4<f32>(v.a.z, v.b.z, v.c.z, v.d.z);
    tile[at + place(s + 3u, g)] = vec4<f32>(v.a.w, v.b.w, v.c.w, v.d.w);
}

// Rows or columns 4 · (lane % 16) and the three after it, of the steps lane / 16 + 0, 4, 8, 12: a member each.
fn stage_straight(at: u32, lane: u32, v: Four) {
    let s = lane / 16u;
    let g = lane % 16u;
    tile[at + place(s, g)] = v.a;
    tile[at + place(s + 4u, g)] = v.b;
    tile[at + place(s + 8u, g)] = v.c;
    tile[at + place(s + 12u, g)] = v.d;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let rows = group.y * 64u;
    let cols = group.x * 64u;
    let ty = lane / 8u;
    let tx = lane % 8u;
    // A thread's outputs are four blocks of 4 × 4, 32 rows and 32 columns apart.
    let r = rows + ty * 4u;
    let c = cols + tx * 4u;
    let d = c + 32u;
    var s0 = start(r, c); var s1 = start(r + 1u, c); var s2 = start(r + 2u, c); var s3 = start(r + 3u, c);
    var s4 = start(r + 32u, c); var s5 = start(r + 33u, c); var s6 = start(r + 34u, c); var s7 = start(r + 35u, c);
    var t0 = start(r, d); var t1 = start(r + 1u, d); var t2 = start(r + 2u, d); var t3 = start(r + 3u, d);
    var t4 = start(r + 32u, d); var t5 = start(r + 33u, d); var t6 = start(r + 34u, d); var t7 = start(r + 35u, d);
    let chunks = (steps() + 15u) / 16u;
    // Chunk i is on its way from memory while the one before it is computed on.
    for (var i = 0u; i <= chunks; i++) {
        let more = i < chunks;
        var next_left = Four();
        var next_right = Four();
        if more {
            next_left = left(i * 16u, rows, lane);
            next_right = right(i * 16u, cols, lane);
        }
        let filled = (i & 1u) * 512u;
        let half = 512u - filled;
        if i > 0u {
            for (var k = 0u; k < 16u; k++) {
                let a = tile[half + place(k, ty)];
                let b = tile[half + place(k, ty + 8u)];
                let u = tile[half + 256u + place(k, tx)];
                let v = tile[half + 256u + place(k, tx + 8u)];
                s0 = fma(vec4<f32>(a.x), u, s0); t0 = fma(vec4<f32>(a.x), v, t0);
                s1 = fma(vec4<f32>(a.y), u, s1); t1 = fma(vec4<f32>(a.y), v, t1);
                s2 = fma(vec4<f32>(a.z), u, s2); t2 = fma(vec4<f32>(a.z), v, t2);
                s3 = fma(vec4<f32>(a.w), u, s3); t3 = fma(vec4<f32>(a.w), v, t3);
                s4 = fma(vec4<f32>(b.x), u, s4); t4 = fma(vec4<f32>(b.x), v, t4);
                s5 = fma(vec4<f32>(b.y), u, s5); t5 = fma(vec4<f32>(b.y), v, t5);
                s6 = fma(vec4<f32>(b.z), u, s6); t6 = fma(vec4<f32>(b.z), v, t6);
                s7 = fma(vec4<f32>(b.w), u, s7); t7 = fma(vec4<f32>(b.w), v, t7);
            }
        }
        if more {
            stage_left(filled, lane, next_left);
            stage_right(filled + 256u, lane, next_right);
        }
        workgroupBarrier();
    }
    // One place in the code that stores: sixteen take drivers long to compile.
    var outputs = array<vec4<f32>, 16>(s0, s1, s2, s3, s4, s5, s6, s7, t0, t1, t2, t3, t4, t5, t6, t7);
    for (var i = 0u; i < 16u; i++) {
        store(r + (i & 3u) + (i & 4u) * 8u, select(c, d, i >= 8u), outputs[i]);
    }
}
