// Keys four elements at a time, values one at a time, in f32: for attention_forward_subgroup.wgsl.

@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<f32>;

fn other4(at: u32) -> vec4<f32> { return k[at]; }

fn right_element(at: u32) -> f32 { return v[at]; }
