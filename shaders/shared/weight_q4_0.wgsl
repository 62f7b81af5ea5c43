// Q4_0: 32 nibbles a block (4 words: low nibbles are elements 0..16, high ones 16..32), then every block's f16
// scale. Needs shared/half.wgsl.
alias Word = u32;

fn weight4(row: u32, k4: u32) -> vec4<f32> {
    let at = row * p.k4 + k4;
    let block = at >> 3u;
    let d = half_bits_to_f32((word(section() + (block >> 1u)) >> ((block & 1u) * 16u)) & 0xffffu);
    let q = word(block * 4u + (at & 3u)) >> (at & 4u);
    return d * (vec4<f32>((vec4<u32>(q) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(15u)) - 8.0);
}
