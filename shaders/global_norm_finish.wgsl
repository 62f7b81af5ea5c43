// norm (1) = sqrt(Σ partial (blocks)), but stays what it is where it is not finite: a step after a gradient that was not
// finite does not count either. One workgroup. Appended: shared/row_reduce.wgsl.

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
    if local.x == 0u && (bitcast<u32>(norm[0]) & 0x7f800000u) != 0x7f800000u { norm[0] = sqrt(sum); }
}
