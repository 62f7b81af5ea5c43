// Q6_K: 256 six-bit values a block: 32 words of low nibbles, 16 of high bit pairs; then every block's 16 signed
// scales (4 words), then every block's f16 d. Needs shared/half.wgsl.
// d · scale · q has at most 23 bits, so it is exact in f32.
alias Word = u32;

fn weight4(row: u32, k4: u32) -> vec4<f32> {
    let at = row * p.k4 + k4;
    let block = at >> 6u;
    let e = at & 63u;
    // Each half of the block is four runs of 32: nibbles of 16 words (low: runs 0, 1; high: 2, 3), pairs of 8 words.
    let half = e >> 5u;
    let run = (e >> 3u) & 3u;
    let low = word(block * 48u + half * 16u + (run & 1u) * 8u + (e & 7u)) >> ((run & 2u) * 2u);
    let high = word(block * 48u + 32u + half * 8u + (e & 7u)) >> (run * 2u);
    let scales = word(section() + block * 4u + (e >> 4u));
    let scale = bitcast<i32>(scales << (24u - ((e >> 2u) & 3u) * 8u)) >> 24u;
    // The quants take 48 words a block and the scales 4.
    let halves = word(section() + section() / 12u + (block >> 1u));
    let d = half_bits_to_f32((halves >> ((block & 1u) * 16u)) & 0xffffu) * f32(scale);
    let bytes = (low & 0x0f0f0f0fu) | ((high & 0x03030303u) << 4u);
    return d * (vec4<f32>((vec4<u32>(bytes) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u)) - 32.0);
}
