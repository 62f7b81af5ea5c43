// Weights stored as bfloat16, rows padded to four elements.
alias Word = vec2<u32>;

fn weight4(row: u32, k4: u32) -> vec4<f32> {
    let q = word(row * p.k4 + k4);
    return bitcast<vec4<f32>>(vec4<u32>(q.x << 16u, q.x & 0xffff0000u, q.y << 16u, q.y & 0xffff0000u));
}
