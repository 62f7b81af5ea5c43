// How the bodies of linear_forward*.wgsl meet W and hand on what they computed where every column is an output of its own. Goes with
// linear_output.wgsl or linear_slices.wgsl; linear_gated.wgsl stands in the place of all three.

// Four K of a row of W. `side`, a literal, says whether it is in the first half of a lane's or workgroup's columns (0) or the second (1).
fn side4(side: u32, row: u32, k4: u32) -> vec4<f32> {
    return weight4(row, k4);
}

// Four of h's R for the columns of either side.
struct Hidden { first: vec4<f32>, second: vec4<f32> }

fn hidden_sides(row: u32, k: u32) -> Hidden {
    let h = hidden4(0u, row, k);
    return Hidden(h, h);
}

// A column of either side.
fn store_sides(row: u32, cols: vec2<u32>, value: vec2<f32>, second: vec2<f32>) {
    for (var i = 0u; i < 2u; i++) {
        store_one(row, cols[i], value[i], second[i]);
    }
}

// Four neighbouring columns, two of each side.
fn store_four(row: u32, col: u32, value: vec4<f32>, second: vec4<f32>) {
    for (var i = 0u; i < 4u; i++) {
        store_one(row, col + i, value[i], second[i]);
    }
}

// Four rows of a lane's column; all lanes of a workgroup come here.
fn store_rows(row: u32, col: u32, lane: u32, value: vec4<f32>, second: vec4<f32>) {
    store_one(row, col, value.x, second.x);
    store_one(row + 1u, col, value.y, second.y);
    store_one(row + 2u, col, value.z, second.z);
    store_one(row + 3u, col, value.w, second.w);
}
