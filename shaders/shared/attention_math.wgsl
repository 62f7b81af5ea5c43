// Appended by all attention kernels.

// Eight rows, or where they are stored, and a value of each of eight.
struct Rows { a: vec4<u32>, b: vec4<u32> }
struct Eight { a: vec4<f32>, b: vec4<f32> }

fn chain(a: vec4<f32>, b: vec4<f32>, c: f32) -> f32 {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, c))));
}

fn add_scaled(a: f32, b: vec4<f32>, c: vec4<f32>) -> vec4<f32> {
    return fma(vec4<f32>(a), b, c);
}

// exp(score · scale − lse), at most 1: the score's rounding must not push it beyond.
fn probabilities(score: vec4<f32>, scale: f32, lse: vec4<f32>) -> vec4<f32> {
    return exp(clamp(score * scale - lse, vec4<f32>(-80.0), vec4<f32>()));
}

// Which of the query rows first .. first + 4 read key row `key`.
fn is_seen(first: u32, key: u32, key_end: u32) -> vec4<bool> {
    let rows = vec4<u32>(first, first + 1u, first + 2u, first + 3u);
    return (rows >= vec4<u32>(key)) & (rows < vec4<u32>(key_end));
}
