// `weight4`: four elements of a row of W, for every type that weights have on the device (DTYPE). Plain rows are padded to four elements.
// Quantised weights are the quants of all blocks, then, from word section() on, their scales. Scale times quant has at most 23 bits: it is
// exact in f32, so fusing changes nothing.
//#if SEVERAL
// The kernel reads several weights: linear_slices.wgsl or linear_gated.wgsl says which `word` and `section` are of.
//#else
@group(0) @binding(1) var<storage, read> w: array<Word>;

fn word(at: u32) -> Word {
    return w[at];
}

// Words before the scales.
fn section() -> u32 {
    return p.w_section;
}
//#end

// IEEE half precision without the f16 feature. Integer work, exact for subnormals too
// (`unpack2x16float` may flush them). Infinities and NaN do not occur in weights.
fn half_bits_to_f32(h: u32) -> f32 {
    let sign = (h & 0x8000u) << 16u;
    let rest = h & 0x7fffu;
    // A subnormal half is rest · 2⁻²⁴, exact in f32.
    let magnitude = select(bitcast<f32>((rest << 13u) + 0x38000000u), f32(rest) * 5.9604645e-8, rest < 0x0400u);
    return bitcast<f32>(bitcast<u32>(magnitude) | sign);
}

fn low_half(word: u32) -> f32 { return half_bits_to_f32(word & 0xffffu); }

fn high_half(word: u32) -> f32 { return half_bits_to_f32(word >> 16u); }

// The bytes of a word.
fn bytes(word: u32, mask: u32) -> vec4<f32> {
    return vec4<f32>((vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(mask));
}

//#if DTYPE == f32
alias Word = vec4<f32>;

fn weight4(row: u32, k4: u32) -> vec4<f32> {
    return word(row * p.k4 + k4);
}
//#end
//#if DTYPE == f16
alias Word = vec2<u32>;

fn weight4(row: u32, k4: u32) -> vec4<f32> {
    let q = word(row * p.k4 + k4);
    return vec4<f32>(low_half(q.x), high_half(q.x), low_half(q.y), high_half(q.y));
}
//#end
//#if DTYPE == bf16
alias Word = vec2<u32>;

fn weight4(row: u32, k4: u32) -> vec4<f32> {
    let q = word(row * p.k4 + k4);
    return bitcast<vec4<f32>>(vec4<u32>(q.x << 16u, q.x & 0xffff0000u, q.y << 16u, q.y & 0xffff0000u));
}
//#end
//#if BLOCKS
alias Word = u32;

// The block's of f16s, two a word, that begin there.
fn half_of(block: u32, begin: u32) -> f32 {
    return low_half(word(begin + (block >> 1u)) >> ((block & 1u) * 16u));
}
//#end
//#if DTYPE == q8_0

// 32 signed bytes a block (8 words), then every block's f16 scale.
fn weight4(row: u32, k4: u32) -> vec4<f32> {
    let at = row * p.k4 + k4;
    let q = bitcast<i32>(word(at));
    return vec4<f32>((vec4<i32>(q) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u)) * half_of(at >> 3u, section());
}
//#end
//#if DTYPE == q4_0

// 32 nibbles a block (4 words: low nibbles are elements 0..16, high ones 16..32), then every block's f16 scale.
fn weight4(row: u32, k4: u32) -> vec4<f32> {
    let at = row * p.k4 + k4;
    let block = at >> 3u;
    let q = word(block * 4u + (at & 3u)) >> (at & 4u);
    return half_of(block, section()) * (bytes(q, 15u) - 8.0);
}
//#end
//#if DTYPE == q4_1

// As Q4_0, then every block's scale and minimum (f16 each, one word).
fn weight4(row: u32, k4: u32) -> vec4<f32> {
    let at = row * p.k4 + k4;
    let block = at >> 3u;
    let scales = word(section() + block);
    let q = word(block * 4u + (at & 3u)) >> (at & 4u);
    return low_half(scales) * bytes(q, 15u) + high_half(scales);
}
//#end
//#if DTYPE == q4_k

// 256 nibbles a block (32 words; sub-blocks of 32 elements 2i and 2i+1 are the low and high nibbles of 8 words), then four words a block:
// d and dmin (f16), 12 bytes of 6-bit scales and minima.
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
    let d = low_half(word(s)) * f32(scale);
    let m = high_half(word(s)) * f32(least);
    let q = word(block * 32u + (sub >> 1u) * 8u + (at & 7u)) >> ((sub & 1u) * 4u);
    return d * bytes(q, 15u) - m;
}
//#end
//#if DTYPE == q6_k

// 256 six-bit values a block: 32 words of low nibbles, 16 of high bit pairs; then every block's 16 signed scales (4 words), then every
// block's f16 d.
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
    let d = half_of(block, section() + section() / 12u) * f32(scale);
    let q = (low & 0x0f0f0f0fu) | ((high & 0x03030303u) << 4u);
    return d * (bytes(q, 255u) - 32.0);
}
//#end
