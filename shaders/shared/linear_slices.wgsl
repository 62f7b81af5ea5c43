// Up to three products of one x in a dispatch, for linear_forward*.wgsl in the place of linear_params.wgsl, linear_output.wgsl and
// y_i (M, N_i) = x (M, K) · W_iᵀ (N_i, K) [+ bias_i], all W of one element type. The workgroups of a row of tiles are those of
// y_0, then of y_1, then of y_2. Goes with linear_columns.wgsl and weight.wgsl.

struct Params {
    m: u32,
    k4: u32,       // K / 4, rounded up
    x_stride: u32, // vec4s from one row of x to the next
    n0: u32,
    n1: u32,
    n2: u32,
    first1: u32,   // first workgroup of y_1
    first2: u32,   // first workgroup of y_2; past the last where there are two products
    row_words: u32, // words of quants in a row of a quantised weight
    bias0: u32,    // where in `bias` those of y_0 begin
    bias1: u32,
    bias2: u32,
}
var<immediate> p: Params;

// There is no second product.
const LORA = false;
override BIASED: bool = false;

@group(0) @binding(1) var<storage, read> w0: array<Word>;
@group(0) @binding(2) var<storage, read> w1: array<Word>;
@group(0) @binding(3) var<storage, read> w2: array<Word>;
@group(0) @binding(4) var<storage, read_write> y0: array<f32>;
@group(0) @binding(5) var<storage, read_write> y1: array<f32>;
@group(0) @binding(6) var<storage, read_write> y2: array<f32>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;

// Which product this workgroup is of, its N, and where its biases begin.
var<private> slice: u32;
var<private> columns: u32;
var<private> biases: u32;

fn begin(group: vec3<u32>) -> u32 {
    if group.x < p.first1 {
        slice = 0u;
        columns = p.n0;
        biases = p.bias0;
        return group.x;
    }
    if group.x < p.first2 {
        slice = 1u;
        columns = p.n1;
        biases = p.bias1;
        return group.x - p.first1;
    }
    slice = 2u;
    columns = p.n2;
    biases = p.bias2;
    return group.x - p.first2;
}

// Which weight is read: known when a driver compiles a body's work. A choice for every word costs as much as the reads.
var<private> which: u32;

fn word(at: u32) -> Word {
    if which == 0u { return w0[at]; }
    if which == 1u { return w1[at]; }
    return w2[at];
}

fn with_weight(at: At, k: u32) -> Work {
    var w: Work;
    if slice == 0u {
        which = 0u;
        w = work(at, k);
    } else if slice == 1u {
        which = 1u;
        w = work(at, k);
    } else {
        which = 2u;
        w = work(at, k);
    }
    return w;
}

fn section() -> u32 {
    return columns * p.row_words;
}

fn row_of(col: u32) -> u32 {
    return min(col, columns - 1u);
}

fn rank4() -> u32 {
    return 0u;
}

fn hidden4(side: u32, row: u32, k: u32) -> vec4<f32> {
    return vec4<f32>();
}

fn second4(side: u32, col: u32, k: u32) -> vec4<f32> {
    return vec4<f32>();
}

// The padding columns n .. pad4(n) become 0.
fn store_one(row: u32, col: u32, value: f32, second: f32) {
    let stride = (columns + 3u) & ~3u;
    if row >= p.m || col >= stride { return; }
    let at = row * stride + col;
    var v = select(0.0, value, col < columns);
    if BIASED && col < columns { v = value + bias[biases + col]; }
    if slice == 0u { y0[at] = v; } else if slice == 1u { y1[at] = v; } else { y2[at] = v; }
}
