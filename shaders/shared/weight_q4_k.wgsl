// Q4_K: 256 nibbles a block (32 words; sub-blocks of 32 elements 2i and 2i+1 are the low and high nibbles of 8 words),
// then four words a block: d and dmin (f16), 12 bytes of 6-bit scales and minima. Needs shared/half.wgsl.
// d · scale · q has at most 21 bits, so it is exact in f32 and fusing changes nothing.
alias Word = u32;

fn weight4(row: u32, k4: u32) -> vec4<f32> {
    let at = row * p.k4 + k4;
    let block = at >> 6u;
    let sub = (at >> 3u) & 7u;
    let s = section() + block * 4u;
    let shift = (sub & 3u) * 8u;
    let a = word(s + 1u) >> shift;
    let b = word(s + 2u) >> shift;
    let c = word(s + 3u) >> shift;
    // The first four lie whole in bytes a and b; the others have low nibbles in c and high bits atop a and b.
    let scale = select((c & 15u) | ((a >> 2u) & 48u), a & 63u, sub < 4u);
    let least = select(((c >> 4u) & 15u) | ((b >> 2u) & 48u), b & 63u, sub < 4u);
    let d = half_bits_to_f32(word(s) & 0xffffu) * f32(scale);
    let m = half_bits_to_f32(word(s) >> 16u) * f32(least);
    let q = word(block * 32u + (sub >> 1u) * 8u + (at & 7u)) >> ((sub & 1u) * 4u);
    return d * vec4<f32>((vec4<u32>(q) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(15u)) - m;
}
