// Weights stored as f32, rows padded to four elements.
alias Word = vec4<f32>;

fn weight4(row: u32, k4: u32) -> vec4<f32> {
    return word(row * p.k4 + k4);
}
