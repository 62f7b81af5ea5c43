// out (groups, 4, SIDE, SIDE) = 4 · rounds · x · y_j for four j: the rate of cooperative matrices.
// Prepended: `Left`, `Right`, `Sum`, their elements `E` and `S`, and `SIDE`.
// A workgroup is one subgroup. Every index and stride is a `let`: naga's SPIR-V needs them so.

override LANES: u32 = 32u;

struct Params {
    rounds: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<E>;          // (SIDE, SIDE), row-major
@group(0) @binding(1) var<storage, read> y: array<E>;          // (4, SIDE, SIDE), row-major
@group(0) @binding(2) var<storage, read_write> out: array<S>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
    let stride = SIDE;
    let tile = SIDE * SIDE;
    let y1 = tile;
    let y2 = 2u * tile;
    let y3 = 3u * tile;
    let a = coopLoadT<Left>(&x[0], stride);
    let b0 = coopLoadT<Right>(&y[0], stride);
    let b1 = coopLoadT<Right>(&y[y1], stride);
    let b2 = coopLoadT<Right>(&y[y2], stride);
    let b3 = coopLoadT<Right>(&y[y3], stride);
    var c0 = Sum();
    var c1 = Sum();
    var c2 = Sum();
    var c3 = Sum();
    for (var r = 0u; r < p.rounds; r++) {
        c0 = coopMultiplyAdd(a, b0, c0); c1 = coopMultiplyAdd(a, b1, c1); c2 = coopMultiplyAdd(a, b2, c2); c3 = coopMultiplyAdd(a, b3, c3);
        c0 = coopMultiplyAdd(a, b0, c0); c1 = coopMultiplyAdd(a, b1, c1); c2 = coopMultiplyAdd(a, b2, c2); c3 = coopMultiplyAdd(a, b3, c3);
        c0 = coopMultiplyAdd(a, b0, c0); c1 = coopMultiplyAdd(a, b1, c1); c2 = coopMultiplyAdd(a, b2, c2); c3 = coopMultiplyAdd(a, b3, c3);
        c0 = coopMultiplyAdd(a, b0, c0); c1 = coopMultiplyAdd(a, b1, c1); c2 = coopMultiplyAdd(a, b2, c2); c3 = coopMultiplyAdd(a, b3, c3);
    }
    let o0 = (group.y * grid.x + group.x) * 4u * tile;
    let o1 = o0 + tile;
    let o2 = o1 + tile;
    let o3 = o2 + tile;
    coopStoreT(c0, &out[o0], stride);
    coopStoreT(c1, &out[o1], stride);
    coopStoreT(c2, &out[o2], stride);
    coopStoreT(c3, &out[o3], stride);
}
