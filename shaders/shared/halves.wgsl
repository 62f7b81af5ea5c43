// Appended where values are stored as f16, two in a word.

// The halves nearest to x, ties to even. Integer work, because `pack2x16float` may round either way: the bits are the same on every
// driver. Finite values beyond ±65504 are taken as ±65504; what is not finite stays so. There are no subnormal halves: below
// 2⁻¹⁵ a value becomes 0, from there to 2⁻¹⁴ that.
fn halves(x: vec2<f32>) -> u32 {
    let bits = bitcast<vec2<u32>>(x);
    let size = bits & vec2<u32>(0x7fffffffu);
    let shift = vec2<u32>(13u);
    // Ten bits of the mantissa are left, below an exponent biased by 127; the halves' is biased by 15.
    let nearest = (size + vec2<u32>(0xfffu) + ((size >> shift) & vec2<u32>(1u))) >> shift;
    let normal = clamp(nearest, vec2<u32>(0x1c400u), vec2<u32>(0x23bffu)) - vec2<u32>(0x1c000u);
    let finite = select(normal, vec2<u32>(), size < vec2<u32>(0x38000000u));
    let special = select(vec2<u32>(0x7c00u), vec2<u32>(0x7e00u), size > vec2<u32>(0x7f800000u));
    let half = select(finite, special, size >= vec2<u32>(0x7f800000u)) | ((bits >> vec2<u32>(16u)) & vec2<u32>(0x8000u));
    return half.x | (half.y << 16u);
}
