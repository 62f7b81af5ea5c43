// What the passes over a group's sorted rewards share. Needs `ordered`, `p.m`, and shared/row_reduce.wgsl.

// How many of the group's rewards are strictly below `value`: a binary search in ordered[first .. first + M].
fn count_below(first: u32, value: f32) -> u32 {
    var low = 0u;
    var high = p.m;
    while low < high {
        let middle = (low + high) / 2u;
        if ordered[first + middle] < value { low = middle + 1u; } else { high = middle; }
    }
    return low;
}

// The sum of the lower lanes' values, in the order of the lanes.
fn sum_before(lane: u32, value: f32) -> f32 {
    workgroupBarrier();
    tree[lane] = value;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < lane; i++) { sum += tree[i]; }
    return sum;
}
