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
    //#each j TILES: let y{j} = {j}u * SIDE * SIDE;
    //#each j TILES: let b{j} = coopLoadT<Right>(&y[y{j}], stride);
    //#each j TILES: var c{j} = Sum();
    for (var r = 0u; r < p.rounds; r++) {
        //#each link LINKS, j TILES: c{j} = coopMultiplyAdd(a, b{j}, c{j});
    }
    let first = (group.y * grid.x + group.x) * TILES;
    //#each j TILES: let o{j} = (first + {j}u) * SIDE * SIDE;
    //#each j TILES: coopStoreT(c{j}, &out[o{j}], stride);
}
