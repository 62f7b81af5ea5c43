// In place of shared/attention_tiled.wgsl, for gradients on cooperative matrices: what the tiled shaders give is rounded to f16, products
// and sums are added in f32. Finite values beyond ±65504 are taken as ±65504; what is not finite stays so. Gradients are often below
// what f16 holds: a row of dout, and a left row's weights in a tile, are scaled by the power of two that brings their largest value to
// 2¹⁴ … 2¹⁵, and back. Those shaders say besides
//   dout4(n, d), DOUT_IS_LEFT   vec4 d of row n of dout, which is a left row or else one of the tile's right rows,
//   ADDS_DOUT                   whether dout is what is added up.
// Four subgroups have 16 left rows each, as DOWN by ACROSS matrices of SIDE × SIDE.

override LANES: u32 = 128u; // at least 128, four subgroups at the least
override D4: u32 = 16u;     // at most 32
override HEADS: u32 = 1u;   // query heads of a KV head

const LEFT = 64u;
const RIGHT = 32u;
// 32 values in a row, and 8 that spread rows over the banks, at multiples of 16 bytes.
const STRIDE = 40u;
const RIGHT_AT = LEFT * STRIDE;

var<workgroup> halves: array<f16, 3840>; // left and right rows: 32 elements of D; or weights, and what they multiply
var<workgroup> sums: array<f32, 2048>;   // (RIGHT, LEFT) products, then weights; or (LEFT, 32) sums
var<workgroup> douts: array<f32, 64>;    // biased exponents of the largest values of rows of dout
var<workgroup> tops: array<f32, 64>;     // the same of left rows' weights
var<private> acc0: mat4x4<f32>; // a column for each left row, a share for each 32 of D
var<private> acc1: mat4x4<f32>;
var<private> acc2: mat4x4<f32>;
var<private> acc3: mat4x4<f32>;

fn put(at: u32, v: vec4<f32>) {
    let finite = (bitcast<vec4<u32>>(v) & vec4<u32>(0x7f800000u)) != vec4<u32>(0x7f800000u);
    let h = vec4<f16>(select(v, clamp(v, vec4<f32>(-65504.0), vec4<f32>(65504.0)), finite));
    halves[at] = h.x;
    halves[at + 1u] = h.y;
    halves[at + 2u] = h.z;
    halves[at + 3u] = h.w;
}

fn exponent(v: f32) -> u32 { return (bitcast<u32>(v) >> 23u) & 255u; }

fn up(exponent: f32) -> f32 { return bitcast<f32>(u32(268.0 - exponent) << 23u); }

fn down(exponent: f32) -> f32 { return bitcast<f32>(u32(exponent - 14.0) << 23u); }

// Looks through the rows of dout: those of the workgroup, or of the tile.
fn prepare(lane: u32) {
    let rows = select(RIGHT, LEFT, DOUT_IS_LEFT);
    var most = 27u;
    for (var d = lane / rows; d < D4; d += LANES / rows) {
        let v = dout4(lane % rows, d);
        most = max(max(most, max(exponent(v.x), exponent(v.y))), max(exponent(v.z), exponent(v.w)));
    }
    workgroupBarrier();
    sums[lane] = f32(most);
    workgroupBarrier();
    if lane < rows {
        var top = 27.0;
        for (var i = lane; i < LANES; i += rows) { top = max(top, sums[i]); }
        douts[lane] = min(top, 227.0);
    }
    workgroupBarrier();
}

// 32 elements of D of all rows, from vec4 `first` on; past D they are 0.
fn stage_rows(which: u32, first: u32, lane: u32) {
    for (var i = lane; i < (LEFT + RIGHT) * 8u; i += LANES) {
        let n = i / 8u;
        let d = min(first + i % 8u, D4 - 1u);
        var v: vec4<f32>;
        if n < LEFT { v = left4(which, n, d); } else { v = right4(which, n - LEFT, d); }
        if which == 1u && DOUT_IS_LEFT == (n < LEFT) { v *= up(douts[select(n - LEFT, n, DOUT_IS_LEFT)]); }
        put(n * STRIDE + i % 8u * 4u, select(vec4<f32>(), v, first + i % 8u < D4));
    }
}

fn column(n: u32, quad: u32) -> vec4<f32> {
    let at = n * LEFT + quad;
    return vec4<f32>(sums[at], sums[at + 16u], sums[at + 32u], sums[at + 48u]);
}

// As in shared/attention_tiled.wgsl; threads from the 128th on have none.
fn products(which: u32, lane: u32) -> mat4x4<f32> {
    multiply_rows(which, lane);
    workgroupBarrier();
    let quad = lane % 16u;
    let right = min(lane / 16u * 4u, RIGHT - 4u);
    var s = mat4x4<f32>(column(right, quad), column(right + 1u, quad), column(right + 2u, quad), column(right + 3u, quad));
    if which == 1u && DOUT_IS_LEFT {
        let f = vec4<f32>(down(douts[quad]), down(douts[quad + 16u]), down(douts[quad + 32u]), down(douts[quad + 48u]));
        s = mat4x4<f32>(s[0] * f, s[1] * f, s[2] * f, s[3] * f);
    } else if which == 1u {
        s = mat4x4<f32>(s[0] * down(douts[right]), s[1] * down(douts[right + 1u]), s[2] * down(douts[right + 2u]), s[3] * down(douts[right + 3u]));
    }
    workgroupBarrier();
    return s;
}

fn set_weights(n: u32, lane: u32, w: vec4<f32>) {
    if n >= RIGHT { return; }
    var v = w;
    if ADDS_DOUT { v *= down(douts[n]); }
    let at = n * LEFT + lane % 16u;
    sums[at] = v.x;
    sums[at + 16u] = v.y;
    sums[at + 32u] = v.z;
    sums[at + 48u] = v.w;
}

// Puts the tile's weights into `halves`, each left row's scaled.
fn stage_weights(lane: u32) {
    workgroupBarrier();
    if lane < LEFT {
        var most = 27u;
        for (var n = 0u; n < RIGHT; n++) { most = max(most, exponent(sums[n * LEFT + lane])); }
        tops[lane] = f32(min(most, 227u));
    }
    workgroupBarrier();
    for (var i = lane; i < LEFT * RIGHT / 4u; i += LANES) {
        let row = i % LEFT;
        let n = i / LEFT * 4u;
        let v = vec4<f32>(sums[n * LEFT + row], sums[(n + 1u) * LEFT + row], sums[(n + 2u) * LEFT + row], sums[(n + 3u) * LEFT + row]);
        put(row * STRIDE + n, v * up(tops[row]));
    }
}

// A thread's left rows by four of the 32 columns of `part`, with the tile's added.
fn add_part(part: u32, lane: u32, start: mat4x4<f32>) -> mat4x4<f32> {
    for (var i = lane; i < RIGHT * 8u; i += LANES) {
        let n = i / 8u;
        var v = addend4(n, min(part * 8u + i % 8u, D4 - 1u));
        if ADDS_DOUT { v *= up(douts[n]); }
        put(RIGHT_AT + n * STRIDE + i % 8u * 4u, v);
    }
    workgroupBarrier();
    multiply_weights();
    workgroupBarrier();
    let row = min(lane / 8u, 15u);
    return mat4x4<f32>(with_added(row, lane, start[0]), with_added(row + 16u, lane, start[1]),
                       with_added(row + 32u, lane, start[2]), with_added(row + 48u, lane, start[3]));
}

fn added(row: u32, lane: u32) -> vec4<f32> {
    let at = row * 32u + lane % 8u * 4u;
    return vec4<f32>(sums[at], sums[at + 1u], sums[at + 2u], sums[at + 3u]) * down(tops[row]);
}

fn with_added(row: u32, lane: u32, start: vec4<f32>) -> vec4<f32> {
    return select(start, start + added(row, lane), takes_part(row));
}

fn accumulate(lane: u32) {
    stage_weights(lane);
    acc0 = add_part(0u, lane, acc0);
    if D4 > 8u { acc1 = add_part(1u, lane, acc1); }
    if D4 > 16u { acc2 = add_part(2u, lane, acc2); }
    if D4 > 24u { acc3 = add_part(3u, lane, acc3); }
}

fn store_part(part: u32, lane: u32, s: mat4x4<f32>) {
    let row = lane / 8u;
    let d = part * 8u + lane % 8u;
    if row >= 16u || d >= D4 { return; }
    store4(row, d, s[0]);
    store4(row + 16u, d, s[1]);
    store4(row + 32u, d, s[2]);
    store4(row + 48u, d, s[3]);
}

fn store_sums(lane: u32) {
    store_part(0u, lane, acc0);
    store_part(1u, lane, acc1);
    store_part(2u, lane, acc2);
    store_part(3u, lane, acc3);
}

// Where subgroups are smaller than the adapter's largest there are more than four, and they repeat each other's work.
var<private> quarter: u32;

// Every index and stride is a `let`: naga's SPIR-V needs them so.
fn left_fragment(row: u32, step: u32) -> Left {
    let at = (quarter * 16u + row) * STRIDE + step;
    let stride = STRIDE;
    return coopLoadT<Left>(&halves[at], stride);
}

fn row_fragment(row: u32, step: u32) -> Right {
    let at = RIGHT_AT + row * STRIDE + step;
    let stride = STRIDE;
    return coopLoad<Right>(&halves[at], stride);
}

fn addend_fragment(step: u32, col: u32) -> Right {
    let at = RIGHT_AT + step * STRIDE + col;
    let stride = STRIDE;
    return coopLoadT<Right>(&halves[at], stride);
}

// The products of a tile's rows, into `sums`: (RIGHT, LEFT).
fn multiply_rows(which: u32, lane: u32) {
    //#each m DOWN, n ACROSS: var s{m}_{n} = Sum();
    for (var first = 0u; first < D4; first += 8u) {
        workgroupBarrier();
        stage_rows(which, first, lane);
        workgroupBarrier();
        for (var k = 0u; k < 32u; k += SIDE) {
            //#each m DOWN: let a{m} = left_fragment({m}u * SIDE, k);
            //#each n ACROSS: let b{n} = row_fragment({n}u * SIDE, k);
            //#each m DOWN, n ACROSS: s{m}_{n} = coopMultiplyAdd(a{m}, b{n}, s{m}_{n});
        }
    }
    let stride = LEFT;
    //#each m DOWN, n ACROSS: let at{m}_{n} = quarter * 16u + {m}u * SIDE + {n}u * SIDE * LEFT;
    //#each m DOWN, n ACROSS: coopStore(s{m}_{n}, &sums[at{m}_{n}], stride);
}

// The weights times what is staged beside them, into `sums`: (LEFT, 32).
fn multiply_weights() {
    //#each m DOWN, n ACROSS: var s{m}_{n} = Sum();
    for (var k = 0u; k < 32u; k += SIDE) {
        //#each m DOWN: let a{m} = left_fragment({m}u * SIDE, k);
        //#each n ACROSS: let b{n} = addend_fragment(k, {n}u * SIDE);
        //#each m DOWN, n ACROSS: s{m}_{n} = coopMultiplyAdd(a{m}, b{n}, s{m}_{n});
    }
    let stride = 32u;
    //#each m DOWN, n ACROSS: let at{m}_{n} = quarter * 512u + {m}u * SIDE * 32u + {n}u * SIDE;
    //#each m DOWN, n ACROSS: coopStoreT(s{m}_{n}, &sums[at{m}_{n}], stride);
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    quarter = subgroup % 4u;
    run(group, lane);
}
