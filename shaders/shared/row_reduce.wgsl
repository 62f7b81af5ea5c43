// Reductions over a workgroup of LANES (a power of two up to 256) in a fixed tree order; every lane gets the result.
var<workgroup> tree: array<f32, 256>;
var<workgroup> tree_u32: array<u32, 256>;

fn reduce_add(lane: u32, value: f32) -> f32 {
    workgroupBarrier();
    tree[lane] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half { tree[lane] += tree[lane + half]; }
        workgroupBarrier();
    }
    return tree[0];
}

fn reduce_max(lane: u32, value: f32) -> f32 {
    workgroupBarrier();
    tree[lane] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half { tree[lane] = max(tree[lane], tree[lane + half]); }
        workgroupBarrier();
    }
    return tree[0];
}

fn reduce_count(lane: u32, value: u32) -> u32 {
    workgroupBarrier();
    tree_u32[lane] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half { tree_u32[lane] += tree_u32[lane + half]; }
        workgroupBarrier();
    }
    return tree_u32[0];
}
