// Q8_0: 32 signed bytes a block (8 words), then every block's f16 scale. Needs shared/half.wgsl.
alias Word = u32;

fn weight4(row: u32, k4: u32) -> vec4<f32> {
    let at = row * p.k4 + k4;
    let block = at >> 3u;
    let d = half_bits_to_f32((word(section() + (block >> 1u)) >> ((block & 1u) * 16u)) & 0xffffu);
    let q = bitcast<i32>(word(at));
    return vec4<f32>((vec4<i32>(q) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u)) * d;
}
