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
