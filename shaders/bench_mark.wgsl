// One invocation that writes one number: what a dispatch costs.

struct Params {
    at: u32,
    value: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(1)
fn main() {
    if p.at < arrayLength(&out) { out[p.at] = p.value; }
}
