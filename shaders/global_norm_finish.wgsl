// norm (1) = sqrt(Σ partial (blocks)). One workgroup. Appended: shared/row_reduce.wgsl.

override LANES: u32 = 8u;

struct Params {
    blocks: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> partial: array<f32>;
@group(0) @binding(1) var<storage, read_write> norm: array<f32>;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_id) local: vec3<u32>) {
    var s = 0.0;
    for (var i = local.x; i < p.blocks; i += LANES) { s += partial[i]; }
    let sum = reduce_add(local.x, s);
    if local.x == 0u { norm[0] = sqrt(sum); }
}
