// y (M, N) = silu(x (M, K) · W_0ᵀ (N, K) + beta · h_0 B_0ᵀ) · (x · W_1ᵀ + beta · h_1 B_1ᵀ), for linear_forward*.wgsl in the place of
// linear_output.wgsl and linear_columns.wgsl: SwiGLU's gate (0) and up (1), both of one element type.
// The body computes a product of 2 N columns, SPAN of gate's, the same SPAN of up's, and so on: those of gate are the first side of a lane's or
// workgroup's columns. Goes with linear_params.wgsl and weight.wgsl; each step is rounded as in linear_output.wgsl.

// Whether there are second products: LoRA's, h (M, R) · Bᵀ (N, R).
override LORA: bool = false;
override SPAN: u32 = 2u;

@group(0) @binding(1) var<storage, read> w0: array<Word>;
@group(0) @binding(2) var<storage, read> w1: array<Word>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read> h0: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> h1: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> b0: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> b1: array<vec4<f32>>;

// Which weight is read: what `side4` sets is known when a driver compiles it.
var<private> slice: u32;

fn begin(group: vec3<u32>) -> u32 {
    return group.x;
}

fn word(at: u32) -> Word {
    if slice == 0u { return w0[at]; }
    return w1[at];
}

fn section() -> u32 {
    return p.w_section;
}

// The column of y behind one of the body's.
fn output_of(col: u32) -> u32 {
    return col / (2u * SPAN) * SPAN + col % SPAN;
}

fn row_of(col: u32) -> u32 {
    return min(output_of(col), p.n - 1u);
}

fn side4(side: u32, row: u32, k4: u32) -> vec4<f32> {
    slice = side;
    return weight4(row, k4);
}

fn with_weight(at: At, k: u32) -> Work {
    return work(at, k);
}

fn rank4() -> u32 {
    return p.r4;
}

fn hidden4(side: u32, row: u32, k: u32) -> vec4<f32> {
    let at = min(row, p.m - 1u) * p.r4 + k;
    if side == 0u { return h0[at]; }
    return h1[at];
}

fn second4(side: u32, col: u32, k: u32) -> vec4<f32> {
    let at = row_of(col) * p.r4 + k;
    if side == 0u { return b0[at]; }
    return b1[at];
}

struct Hidden { first: vec4<f32>, second: vec4<f32> }

fn hidden_sides(row: u32, k: u32) -> Hidden {
    return Hidden(hidden4(0u, row, k), hidden4(1u, row, k));
}

// `value` and `second`: gate's, then up's.
fn store_gated(row: u32, col: u32, value: vec2<f32>, second: vec2<f32>) {
    if row >= p.m || col >= p.y_stride { return; }
    var v = value;
    if LORA { v = fma(vec2<f32>(p.beta), second, v); }
    // As in swiglu_forward.wgsl.
    let act = v.x / (1.0 + exp(min(-v.x, 80.0))) * v.y;
    y[row * p.y_stride + col] = select(0.0, act, col < p.n);
}

fn store_sides(row: u32, cols: vec2<u32>, value: vec2<f32>, second: vec2<f32>) {
    store_gated(row, output_of(cols.x), value, second);
}

fn store_four(row: u32, col: u32, value: vec4<f32>, second: vec4<f32>) {
    store_gated(row, output_of(col), value.xz, second.xz);
    store_gated(row, output_of(col + 1u), value.yw, second.yw);
}
//#if GEMV

// Gate's and up's columns are in different lanes of linear_forward_gemv.wgsl: up's go to gate's through the memory of W's tile, which no one
// reads any more. SPAN is 16.
fn store_rows(row: u32, col: u32, lane: u32, value: vec4<f32>, second: vec4<f32>) {
    w_tile[lane] = value;
    w_tile[lane + 64u] = second;
    workgroupBarrier();
    if (lane & 16u) != 0u { return; }
    let up = w_tile[lane + 16u];
    let up_second = w_tile[lane + 80u];
    for (var i = 0u; i < 4u; i++) {
        store_gated(row + i, output_of(col), vec2<f32>(value[i], up[i]), vec2<f32>(second[i], up_second[i]));
    }
}
//#end
