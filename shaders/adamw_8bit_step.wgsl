// One AdamW step on param (N) as adamw_step, with moments in 8-bit codes relative to a power of two a block of 256
// elements; N is a multiple of 4, grad is only read. A workgroup a block: decode, update, find the block's new scales,
// encode. A norm that is not finite leaves everything as it is.
//
// A code's magnitude has 3 bits of mantissa: 4 of exponent and a sign for the first moment (1.875 down to 2⁻¹⁷), 5 of
// exponent for the second (1.875 down to 2⁻³³, and never 0 for a moment that is not). It is rounded up or down with the
// probability that makes its mean the value, by Philox's bits for (step, tensor, word of four elements).
// Appended: shared/row_reduce.wgsl, shared/philox.wgsl.

override LANES: u32 = 8u;

const WORDS: u32 = 64u;         // a block's words of four codes
const FIRST_BIAS: u32 = 112u;   // exponent of f32 for exponent 0 of a code
const SECOND_BIAS: u32 = 96u;

struct Params {
    words: u32,
    first_word: u32,         // number of this buffer's first word in its tensor
    key0: u32,
    key1: u32,
    decay: f32,              // as in adamw_step
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    step_size: f32,
    second_correction: f32,
    eps: f32,
    max_norm: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> param: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> grad: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> m: array<u32>;
@group(0) @binding(3) var<storage, read_write> v: array<u32>;
@group(0) @binding(4) var<storage, read_write> scales: array<vec2<f32>>; // of m and of v
@group(0) @binding(5) var<storage, read> norm: array<f32>;

var<workgroup> first: array<vec4<f32>, WORDS>;
var<workgroup> second: array<vec4<f32>, WORDS>;

fn decode(code: u32, bias: u32) -> f32 {
    if code < 8u { return f32(code) * bitcast<f32>((bias - 2u) << 23u); }
    return bitcast<f32>((code << 20u) + (bias << 23u));
}

/// x in 0 … 1.875, rounded by 20 bits of chance.
fn encode(x: f32, chance: u32, bias: u32, most: u32) -> u32 {
    if x < bitcast<f32>((bias + 1u) << 23u) {
        return u32(x * bitcast<f32>((256u - bias) << 23u) + f32(chance) * 0x1p-20);
    }
    return min(((bitcast<u32>(x) + chance) >> 20u) - (bias << 3u), most);
}

/// The power of two that brings values of up to `most` to 1.875 or less; 0 for 0.
fn scale_of(most: f32) -> f32 {
    return bitcast<f32>(min((bitcast<u32>(most) + 0x00100000u) & 0x7f800000u, 0x7e800000u));
}

/// 1 / scale, exactly; finite for 0.
fn inverse(scale: f32) -> f32 {
    return bitcast<f32>(0x7f000000u - min(bitcast<u32>(scale), 0x7e800000u));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let total = norm[0];
    let block = group.y * 65535u + group.x;
    let words = min(p.words - min(block * WORDS, p.words), WORDS);
    if (bitcast<u32>(total) & 0x7f800000u) == 0x7f800000u || words == 0u { return; }
    var clip = 1.0;
    if p.max_norm > 0.0 { clip = min(1.0, p.max_norm / (total + 1e-6)); }
    let old = scales[block];
    var most = vec2<f32>(0.0);
    for (var w = local.x; w < words; w += LANES) {
        let i = block * WORDS + w;
        let g = grad[i] * clip;
        var m0: vec4<f32>;
        var v0: vec4<f32>;
        for (var k = 0u; k < 4u; k++) {
            let code = (m[i] >> (8u * k)) & 0xffu;
            m0[k] = select(1.0, -1.0, code >= 128u) * decode(code & 0x7fu, FIRST_BIAS) * old.x;
            v0[k] = decode((v[i] >> (8u * k)) & 0xffu, SECOND_BIAS) * old.y;
        }
        let m1 = m0 + (g - m0) * p.one_minus_beta1;
        let v1 = v0 * p.beta2 + p.one_minus_beta2 * g * g;
        let denominator = sqrt(v1) / p.second_correction + p.eps;
        param[i] = param[i] * p.decay - p.step_size * (m1 / denominator);
        first[w] = m1;
        second[w] = v1;
        let a = abs(m1);
        most = max(most, vec2<f32>(max(max(a.x, a.y), max(a.z, a.w)), max(max(v1.x, v1.y), max(v1.z, v1.w))));
    }
    let scale = vec2<f32>(scale_of(reduce_max(local.x, most.x)), scale_of(reduce_max(local.x, most.y)));
    let by = vec2<f32>(inverse(scale.x), inverse(scale.y));
    for (var w = local.x; w < words; w += LANES) {
        let i = block * WORDS + w;
        let bits = philox(vec4<u32>(p.first_word + i, 0u, 0u, 2u), vec2<u32>(p.key0, p.key1));
        var codes = vec2<u32>(0u);
        for (var k = 0u; k < 4u; k++) {
            let m1 = first[w][k];
            let v1 = second[w][k];
            var a = encode(abs(m1) * by.x, (bits[k] & 0xffffu) << 4u, FIRST_BIAS, 127u);
            var b = encode(v1 * by.y, (bits[k] >> 16u) << 4u, SECOND_BIAS, 255u);
            if b == 0u && v1 > 0.0 { b = 1u; }
            if scale.x == 0.0 { a = 0u; }
            if scale.y == 0.0 { b = 0u; }
            if m1 < 0.0 { a |= 128u; }
            codes |= vec2<u32>(a, b) << vec2<u32>(8u * k);
        }
        m[i] = codes.x;
        v[i] = codes.y;
    }
    if local.x == 0u { scales[block] = scale; }
}
