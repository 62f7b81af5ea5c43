// Weights stored as f32, rows padded to four elements.
@group(0) @binding(1) var<storage, read> w: array<vec4<f32>>;

fn weight4(row: u32, k4: u32) -> vec4<f32> {
    return w[row * p.k4 + k4];
}
