// As kv_subgroup_f32.wgsl for keys and values in halves, two a word; see kv_f16.wgsl.

@group(0) @binding(1) var<storage, read> k: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> v: array<u32>;

fn other4(at: u32) -> vec4<f32> {
    let words = k[at];
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}

fn right_element(at: u32) -> f32 {
    let two = unpack2x16float(v[at / 2u]);
    return select(two.x, two.y, (at & 1u) == 1u);
}
