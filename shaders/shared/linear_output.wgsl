// What becomes of the outputs of linear_forward*.wgsl, so that all variants round alike. Goes with linear_params.wgsl,
// linear_columns.wgsl.
// y = alpha · x Wᵀ [+ bias] [+ y or residual], then [+ beta · h Bᵀ], then [silu(gate) · that]; each step is rounded once.

// Whether there is a second product: LoRA's, h (M, R) · Bᵀ (N, R). Kernels that do not compute it leave it off.
override LORA: bool = false;
// Whether `beside` is SwiGLU's gate.
override SWIGLU: bool = false;

@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read> beside: array<f32>; // residual or gate, laid out as y
@group(0) @binding(5) var<storage, read> lora_h: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> lora_b: array<vec4<f32>>;

// The workgroup's place along the columns.
fn begin(group: vec3<u32>) -> u32 {
    return group.x;
}

// The row of W behind a column; columns past N repeat the last and are not stored.
fn row_of(col: u32) -> u32 {
    return p.w_row + min(col, p.n - 1u);
}

fn with_weight(at: At, k: u32) -> Work {
    return work(at, k);
}

// R / 4.
fn rank4() -> u32 {
    return p.r4;
}

// Four of h's R; rows past M repeat the last and are not stored.
fn hidden4(side: u32, row: u32, k: u32) -> vec4<f32> {
    return lora_h[min(row, p.m - 1u) * p.r4 + k];
}

// Four of B's R for a column of this weight; columns past N repeat the last and are not stored.
fn second4(side: u32, col: u32, k: u32) -> vec4<f32> {
    return lora_b[(p.y_offset + min(col, p.n - 1u)) * p.r4 + k];
}

// `value` is an output of x Wᵀ, `second` of h Bᵀ.
fn store_one(row: u32, col: u32, value: f32, second: f32) {
    if row >= p.m { return; }
    let at = row * p.y_stride + p.y_offset + col;
    if col < p.n {
        var old = 0.0;
        if (p.flags & 1u) != 0u { old = y[at]; }
        if (p.flags & 8u) != 0u { old = beside[at]; }
        var v = fma(p.alpha, value, old);
        if (p.flags & 2u) != 0u { v = fma(p.alpha, value, bias[p.y_offset + col]) + old; }
        if LORA { v = fma(p.beta, second, v); }
        if SWIGLU {
            let g = beside[at];
            // As in swiglu_forward.wgsl.
            v = g / (1.0 + exp(min(-g, 80.0))) * v;
        }
        y[at] = v;
    } else if (p.flags & 4u) != 0u && col < ((p.n + 3u) & ~3u) {
        y[at] = 0.0;
    }
}
