// y (M, N) = alpha · x (M, K) · Wᵀ (N, K) [+ linear_output.wgsl's], for few rows on GPUs, with K split over the lanes.
// Appended: linear_forward.wgsl's; not linear_gated.wgsl.
// A workgroup is 8 rows by 4 columns, so W is read and dequantised once for all of up to 8 rows. Lane l takes the vec4s
// l, l + 64, l + 128, … of K: one chain of fused multiply-adds an output and lane. The 64 chains of an output are added as
// 8 sums of 8, and those 8 in turn. That order is a function of K alone: a row's bits depend neither on the other rows nor
// on its place among them. They are not linear_forward.wgsl's.

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;

const LANES = 64u;

// A vec4 is four columns; 64 of them a row.
var<workgroup> parts: array<vec4<f32>, 512>;
// Eight a row.
var<workgroup> sums: array<vec4<f32>, 64>;

// Four consecutive K of four columns; a member is one K.
struct Four { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }

alias At = u32;
alias Work = Four;

fn work(col: At, k: u32) -> Work {
    let n = vec4<u32>(row_of(col), row_of(col + 1u), row_of(col + 2u), row_of(col + 3u));
    let q = weight4(n.x, k); let r = weight4(n.y, k); let s = weight4(n.z, k); let t = weight4(n.w, k);
    return Four(vec4<f32>(q.x, r.x, s.x, t.x), vec4<f32>(q.y, r.y, s.y, t.y),
                vec4<f32>(q.z, r.z, s.z, t.z), vec4<f32>(q.w, r.w, s.w, t.w));
}

fn chain4(v: vec4<f32>, w: Four, s: vec4<f32>) -> vec4<f32> {
    let t = fma(vec4<f32>(v.y), w.b, fma(vec4<f32>(v.x), w.a, s));
    return fma(vec4<f32>(v.w), w.d, fma(vec4<f32>(v.z), w.c, t));
}

// Where row `row` of x begins; rows past M repeat the last and are not stored.
fn start(row: u32) -> u32 {
    return min(row, p.m - 1u) * p.x_stride;
}

// An output's second product is one chain, as elsewhere: R is short.
fn second(row: u32, col: u32) -> f32 {
    var s = 0.0;
    for (var k = 0u; k < rank4(); k++) {
        let h = hidden4(0u, row, k);
        let b = second4(0u, col, k);
        s = fma(h.w, b.w, fma(h.z, b.z, fma(h.y, b.y, fma(h.x, b.x, s))));
    }
    return s;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * 8u;
    let col = begin(group) * 4u;
    // Rows that are not there cost nothing: a step computes on 1, 2, 4 or 8.
    let rows = p.m - row;
    let b0 = start(row); let b1 = start(row + 1u); let b2 = start(row + 2u); let b3 = start(row + 3u);
    let b4 = start(row + 4u); let b5 = start(row + 5u); let b6 = start(row + 6u); let b7 = start(row + 7u);
    var s0 = vec4<f32>(); var s1 = vec4<f32>(); var s2 = vec4<f32>(); var s3 = vec4<f32>();
    var s4 = vec4<f32>(); var s5 = vec4<f32>(); var s6 = vec4<f32>(); var s7 = vec4<f32>();
    for (var k = lane; k < p.k4; k += LANES) {
        let w = with_weight(col, k);
        s0 = chain4(x[b0 + k], w, s0);
        if rows > 1u {
            s1 = chain4(x[b1 + k], w, s1);
        }
        if rows > 2u {
            s2 = chain4(x[b2 + k], w, s2);
            s3 = chain4(x[b3 + k], w, s3);
        }
        if rows > 4u {
            s4 = chain4(x[b4 + k], w, s4);
            s5 = chain4(x[b5 + k], w, s5);
            s6 = chain4(x[b6 + k], w, s6);
            s7 = chain4(x[b7 + k], w, s7);
        }
    }
    parts[lane] = s0;
    if rows > 1u {
        parts[lane + 64u] = s1;
    }
    if rows > 2u {
        parts[lane + 128u] = s2; parts[lane + 192u] = s3;
    }
    if rows > 4u {
        parts[lane + 256u] = s4; parts[lane + 320u] = s5; parts[lane + 384u] = s6; parts[lane + 448u] = s7;
    }
    workgroupBarrier();
    // Eight lanes a row, each adds every eighth chain.
    let at = lane / 8u * 64u + lane % 8u;
    if lane / 8u < rows {
        var sum = parts[at];
        for (var i = 8u; i < 64u; i += 8u) { sum += parts[at + i]; }
        sums[lane] = sum;
    }
    workgroupBarrier();
    // One lane an output.
    let r = lane / 4u;
    if r < min(rows, 8u) {
        let c = lane % 4u;
        var sum = sums[r * 8u][c];
        for (var i = 1u; i < 8u; i++) { sum += sums[r * 8u + i][c]; }
        var h = 0.0;
        if LORA { h = second(row + r, col + c); }
        store_one(row + r, col + c, sum, h);
    }
}
