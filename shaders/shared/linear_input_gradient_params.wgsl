// Parameters of linear_input_gradient*.wgsl.

struct Params {
    m: u32,
    n: u32,
    k4: u32,         // K / 4, rounded up
    dy_stride: u32,  // vec4s
    dx_stride: u32,  // vec4s
    dy_offset: u32,  // column of dy that meets this weight's first row; a multiple of 4
    w_section: u32,
    w_row: u32,      // first row of the weight to use
    flags: u32,      // 1: add to dx, 2: the chain goes on from dx
    alpha: f32,
}
var<immediate> p: Params;
