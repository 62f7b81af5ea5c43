// Parameters of linear_weight_gradient*.wgsl.

struct Params {
    m: u32,
    n: u32,
    k4: u32,         // K / 4, rounded up
    dy_stride: u32,  // vec4s
    x_stride: u32,   // vec4s
    dy_offset: u32,  // column of dy that meets dw's first row; a multiple of 4
    dw_row: u32,     // first row of dw to write
    flags: u32,      // 1: add to dw
    alpha: f32,
    first: u32,      // row of dy and x where the sum begins
}
var<immediate> p: Params;
