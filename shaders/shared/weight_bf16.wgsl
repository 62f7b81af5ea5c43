// Weights stored as bfloat16, rows padded to four elements.
@group(0) @binding(1) var<storage, read> w: array<vec2<u32>>;

fn weight4(row: u32, k4: u32) -> vec4<f32> {
    let q = w[row * p.k4 + k4];
    return bitcast<vec4<f32>>(vec4<u32>(q.x << 16u, q.x & 0xffff0000u, q.y << 16u, q.y & 0xffff0000u));
}
