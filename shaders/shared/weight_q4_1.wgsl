// Q4_1: 32 nibbles a block (4 words: low nibbles are elements 0..16, high ones 16..32), then every block's scale
// and minimum (f16 each, one word). Needs shared/half.wgsl. d · q is exact in f32, so fusing changes nothing.
alias Word = u32;

fn weight4(row: u32, k4: u32) -> vec4<f32> {
    let at = row * p.k4 + k4;
    let block = at >> 3u;
    let scales = word(section() + block);
    let d = half_bits_to_f32(scales & 0xffffu);
    let m = half_bits_to_f32(scales >> 16u);
    let q = word(block * 4u + (at & 3u)) >> (at & 4u);
    return d * vec4<f32>((vec4<u32>(q) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(15u)) + m;
}
