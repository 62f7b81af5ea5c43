// Parameters of a forward product, for linear_forward*.wgsl.

struct Params {
    m: u32,
    n: u32,
    k4: u32,        // K / 4, rounded up
    x_stride: u32,  // vec4s from one row of x to the next
    y_stride: u32,  // floats from one row of y to the next
    y_offset: u32,  // column of y where this weight's first row goes
    w_section: u32, // words before the scales of a quantised weight
    w_row: u32,     // first row of the weight to use
    flags: u32,     // 1: add y, 2: add the bias, 4: zero the padding columns n .. pad4(n), 8: add `beside`
    alpha: f32,
    r4: u32,        // R / 4, rounded up: vec4s from one row of h or B to the next
    beta: f32,
}
var<immediate> p: Params;
