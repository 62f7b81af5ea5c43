// out (groups, 4, SIDE, SIDE) = rounds · LINKS · x · y_j for TILES matrices y_j: the rate of cooperative matrices, FROM in, TO out.
// A workgroup is one subgroup. Every index and stride is a `let`: naga's SPIR-V needs them so.

override LANES: u32 = 32u;

struct Params {
    rounds: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<FROM>;         // (SIDE, SIDE), row-major
@group(0) @binding(1) var<storage, read> y: array<FROM>;         // (TILES, SIDE, SIDE), row-major
@group(0) @binding(2) var<storage, read_write> out: array<TO>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
    let stride = SIDE;
    let a = coopLoadT<Left>(&x[0], stride);
    var b: array<Right, TILES>;
    var c: array<Sum, TILES>;
    for (var j = 0u; j < TILES; j++) {
        let at = j * SIDE * SIDE;
        b[j] = coopLoadT<Right>(&y[at], stride);
        c[j] = Sum();
    }
    for (var r = 0u; r < p.rounds; r++) {
        for (var link = 0u; link < LINKS; link++) {
            for (var j = 0u; j < TILES; j++) { c[j] = coopMultiplyAdd(a, b[j], c[j]); }
        }
    }
    let first = (group.y * grid.x + group.x) * TILES * SIDE * SIDE;
    for (var j = 0u; j < TILES; j++) {
        let at = first + j * SIDE * SIDE;
        coopStoreT(c[j], &out[at], stride);
    }
}
