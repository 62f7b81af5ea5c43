// As kv_f32.wgsl for keys and values in halves, two a word. kv_store_f16.wgsl wrote them: there are no subnormal ones, which
// `unpack2x16float` may flush, so that it is exact on every driver.

@group(0) @binding(1) var<storage, read> k: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> v: array<vec2<u32>>;

fn four(words: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}

fn key4(at: u32) -> vec4<f32> { return four(k[at]); }

fn value4(at: u32) -> vec4<f32> { return four(v[at]); }
