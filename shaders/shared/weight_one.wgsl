// The weight of a dispatch that has one. Goes with weight_*.wgsl, which says what a word is.
@group(0) @binding(1) var<storage, read> w: array<Word>;

fn word(at: u32) -> Word {
    return w[at];
}

// Words before the scales of a quantised weight.
fn section() -> u32 {
    return p.w_section;
}
