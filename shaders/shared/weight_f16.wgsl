// Weights stored as IEEE halves, rows padded to four elements. Needs shared/half.wgsl.
alias Word = vec2<u32>;

fn weight4(row: u32, k4: u32) -> vec4<f32> {
    let q = word(row * p.k4 + k4);
    return vec4<f32>(
        half_bits_to_f32(q.x & 0xffffu), half_bits_to_f32(q.x >> 16u),
        half_bits_to_f32(q.y & 0xffffu), half_bits_to_f32(q.y >> 16u),
    );
}
