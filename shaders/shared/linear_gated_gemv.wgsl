// Gate's and up's columns are in different lanes of linear_forward_gemv.wgsl: up's go to gate's through the memory of W's tile, which no one
// reads any more. Goes with linear_gated.wgsl (SPAN 16).
fn store_rows(row: u32, col: u32, lane: u32, value: vec4<f32>, second: vec4<f32>) {
    w_tile[lane] = value;
    w_tile[lane + 64u] = second;
    workgroupBarrier();
    if (lane & 16u) != 0u { return; }
    let up = w_tile[lane + 16u];
    let up_second = w_tile[lane + 80u];
    for (var i = 0u; i < 4u; i++) {
        store_gated(row + i, output_of(col), vec2<f32>(value[i], up[i]), vec2<f32>(second[i], up_second[i]));
    }
}
