// IEEE half precision without the f16 feature. Integer work, exact for subnormals too
// (`unpack2x16float` may flush them). Infinities and NaN do not occur in weights.
fn half_bits_to_f32(h: u32) -> f32 {
    let sign = (h & 0x8000u) << 16u;
    let rest = h & 0x7fffu;
    // A subnormal half is rest · 2⁻²⁴, exact in f32.
    let magnitude = select(bitcast<f32>((rest << 13u) + 0x38000000u), f32(rest) * 5.9604645e-8, rest < 0x0400u);
    return bitcast<f32>(bitcast<u32>(magnitude) | sign);
}
