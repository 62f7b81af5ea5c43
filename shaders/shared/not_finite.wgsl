// What a micro-batch's sums say of values that are not finite. Told by their bits: fast math may assume that there are none.
fn not_finite(value: f32) -> bool {
    return (bitcast<u32>(value) & 0x7f800000u) == 0x7f800000u;
}

// The fifth and sixth term of a loss whose value it is, `left` terms from the last: the value, whose sum says what was found, and
// `left`, whose largest says where it was found first. Zeros where the value is finite.
fn marks(value: f32, left: u32) -> vec2<f32> {
    return select(vec2<f32>(0.0), vec2<f32>(value, f32(left)), not_finite(value));
}
