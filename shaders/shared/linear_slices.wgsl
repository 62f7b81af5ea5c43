// Up to three products of one x in a dispatch, for linear_forward*.wgsl in the place of linear_output.wgsl and a weight's part:
// workgroups of slice z compute y_z (M, N) = x (M, K) · W_zᵀ (N, K), W f32. An adapter's A of layers that share their input.
// Goes with linear_params.wgsl.

// There is no second product.
const LORA = false;

@group(0) @binding(1) var<storage, read> w0: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> w1: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> w2: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y0: array<f32>;
@group(0) @binding(5) var<storage, read_write> y1: array<f32>;
@group(0) @binding(6) var<storage, read_write> y2: array<f32>;

var<private> slice: u32;

fn begin(z: u32) {
    slice = z;
}

fn weight4(row: u32, k4: u32) -> vec4<f32> {
    let at = row * p.k4 + k4;
    if slice == 0u { return w0[at]; }
    if slice == 1u { return w1[at]; }
    return w2[at];
}

fn hidden4(row: u32, k: u32) -> vec4<f32> {
    return vec4<f32>();
}

fn second4(col: u32, k: u32) -> vec4<f32> {
    return vec4<f32>();
}

// The padding columns n .. pad4(n) become 0.
fn store_one(row: u32, col: u32, value: f32, second: f32) {
    if row >= p.m || col >= p.y_stride { return; }
    let at = row * p.y_stride + col;
    let v = select(0.0, value, col < p.n);
    if slice == 0u { y0[at] = v; } else if slice == 1u { y1[at] = v; } else { y2[at] = v; }
}
