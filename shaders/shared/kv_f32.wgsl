// Keys and values in f32, four elements at a time: appended by the attention kernels that read them through key4 and value4.

@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;

fn key4(at: u32) -> vec4<f32> { return k[at]; }

fn value4(at: u32) -> vec4<f32> { return v[at]; }
