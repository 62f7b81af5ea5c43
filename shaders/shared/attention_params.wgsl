// Appended by the attention kernels, attention_delta.wgsl aside.

struct Params {
    m: u32,
    heads: u32,
    kv_heads: u32,
    scale: f32,
}
var<immediate> p: Params;
