// `main` of linear_*_coop.wgsl: 64 × 64 outputs a workgroup on cooperative matrices of SIDE × SIDE. The ops give
//   steps()                        the length of the reduced index,
//   LEFT_LINE, left(…)             64 rows' factors for 16 steps: lines of LEFT_LINE values, four of one line at a time,
//   RIGHT_LINE, right(…)           the same of 64 columns,
//   left_fragment, right_fragment  a fragment from the tile, turned where a line is not what a matrix calls a row,
//   SCALED, peaks(…)               whether rows of the left factor are scaled into f16's range first,
//   store(row, col, value)         four neighbouring columns of the output.
// Factors are rounded to f16, products are added in f32 in ascending fragments of the reduced index: an output's order depends on
// that index's length alone. Finite values beyond ±65504 are taken as ±65504; what is not finite stays so.

override LANES: u32 = 128u;  // four subgroups at the least

const EDGE = 64u;
const STEPS = 16u;
// Spreads lines over the banks, at multiples of 16 bytes. Those of the left factor in the first half hold the rows' exponents.
const PAD = 8u;
const LEFT_STRIDE = LEFT_LINE + PAD;
const RIGHT_STRIDE = RIGHT_LINE + PAD;
const RIGHT_AT = EDGE * STEPS / LEFT_LINE * LEFT_STRIDE;
const HALF = RIGHT_AT + EDGE * STEPS / RIGHT_LINE * RIGHT_STRIDE;

// A subgroup has ACROSS × ACROSS matrices, 32 × 32 outputs; those of a quarter of them, and how wide they are together.
const PER_QUARTER = ACROSS * ACROSS / 4u;
const WIDE = PER_QUARTER * SIDE;

// Two halves, filled in turn: some subgroups compute on one while others fill the other.
var<workgroup> tile: array<f16, 2u * HALF>;
// 256 outputs of each of four subgroups; before that, what lanes know of the rows' exponents.
var<workgroup> sums: array<f32, 1024>;

fn put(at: u32, v: vec4<f32>) {
    let finite = (bitcast<vec4<u32>>(v) & vec4<u32>(0x7f800000u)) != vec4<u32>(0x7f800000u);
    let h = vec4<f16>(select(v, clamp(v, vec4<f32>(-65504.0), vec4<f32>(65504.0)), finite));
    tile[at] = h.x;
    tile[at + 1u] = h.y;
    tile[at + 2u] = h.z;
    tile[at + 3u] = h.w;
}

// The larger biased exponents.
fn exponents(so_far: vec4<u32>, v: vec4<f32>) -> vec4<u32> {
    return max(so_far, (bitcast<vec4<u32>>(v) >> vec4<u32>(23u)) & vec4<u32>(255u));
}

fn exponent_at(row: u32) -> u32 {
    return row / PAD * LEFT_STRIDE + LEFT_LINE + row % PAD;
}

// 2 to the power that the row was scaled by, or its inverse.
fn power(row: u32, sign: f32) -> f32 {
    return bitcast<f32>(u32(127.0 + sign * f32(tile[exponent_at(row)])) << 23u);
}

// Scales each row by the power of two that brings its largest value to 2¹⁴ … 2¹⁵: gradients are often below what f16 holds.
fn prepare(rows: u32, lane: u32) {
    let parts = peaks(rows, lane);
    workgroupBarrier();
    for (var row = lane; row < EDGE; row += LANES) {
        var most = 27.0;
        for (var i = 0u; i < parts; i++) { most = max(most, sums[i * EDGE + row]); }
        tile[exponent_at(row)] = f16(141.0 - min(most, 227.0));
    }
    workgroupBarrier();
}

fn stage(chunk: u32, rows: u32, cols: u32, lane: u32) {
    let half = (chunk & 1u) * HALF;
    let first = chunk * STEPS;
    for (var i = lane; i < EDGE * STEPS / 4u; i += LANES) {
        let line = i / (LEFT_LINE / 4u);
        let at = i % (LEFT_LINE / 4u) * 4u;
        put(half + line * LEFT_STRIDE + at, left(rows, first, line, at));
    }
    for (var i = lane; i < EDGE * STEPS / 4u; i += LANES) {
        let line = i / (RIGHT_LINE / 4u);
        let at = i % (RIGHT_LINE / 4u) * 4u;
        put(half + RIGHT_AT + line * RIGHT_STRIDE + at, right(cols, first, line, at));
    }
}

// Stores a quarter of each subgroup's 32 × 32 outputs, which lies in `sums` in rows of WIDE.
fn flush(quarter: u32, rows: u32, cols: u32, lane: u32) {
    for (var i = lane; i < 256u; i += LANES) {
        let group = i / 64u;
        let at = i % 64u * 4u;
        let row = group / 2u * 32u + quarter * WIDE / 32u * (256u / WIDE) + at / WIDE;
        let col = group % 2u * 32u + quarter * WIDE % 32u + at % WIDE;
        var v = vec4<f32>(sums[i * 4u], sums[i * 4u + 1u], sums[i * 4u + 2u], sums[i * 4u + 3u]);
        if SCALED { v *= power(row, -1.0); }
        store(rows + row, cols + col, v);
    }
}

// Every index and stride is a `let`: naga's SPIR-V needs them so.
@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    let rows = group.y * EDGE;
    let cols = group.x * EDGE;
    if SCALED { prepare(rows, lane); }
    // Where subgroups are smaller than the adapter's largest there are more than four, and they repeat each other's work.
    let quarter = subgroup % 4u;
    let r = quarter / 2u * 32u;
    let c = quarter % 2u * 32u;
    //#each m ACROSS, n ACROSS: var s{m}_{n} = Sum();
    let chunks = (steps() + STEPS - 1u) / STEPS;
    // One barrier a chunk: whoever is past it fills the other half, which nobody reads any more.
    for (var i = 0u; i < chunks; i++) {
        stage(i, rows, cols, lane);
        workgroupBarrier();
        let half = (i & 1u) * HALF;
        for (var k = 0u; k < STEPS; k += SIDE) {
            //#each n ACROSS: let b{n} = right_fragment(half, c + {n}u * SIDE, k);
            //#each m ACROSS: let a{m} = left_fragment(half, r + {m}u * SIDE, k);
            //#each m ACROSS, n ACROSS: s{m}_{n} = coopMultiplyAdd(a{m}, b{n}, s{m}_{n});
        }
    }
    let stride = WIDE;
    var s: array<Sum, ACROSS * ACROSS>;
    //#each m ACROSS, n ACROSS: s[{m}u * ACROSS + {n}u] = s{m}_{n};
    // One place in the code that stores: drivers take long to compile four.
    for (var i = 0u; i < 4u; i++) {
        for (var n = 0u; n < PER_QUARTER; n++) {
            let at = quarter * 256u + n * SIDE;
            coopStoreT(s[i * PER_QUARTER + n], &sums[at], stride);
        }
        workgroupBarrier();
        flush(i, rows, cols, lane);
        workgroupBarrier();
    }
}
