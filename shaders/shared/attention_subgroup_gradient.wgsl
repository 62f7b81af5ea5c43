// Appended with attention_subgroup.wgsl where the gradient of a score is wanted: dout · v beside q · k. The kernel says where the second
// pair is: `second_left` and `second4`.

var<private> left_second: array<Eight, PARTS>; // by part, then by row

fn load_second_part(part: u32, at: Rows, lane: u32) {
    if 2u * part >= D4 { return; }
    let a = at.a + element(part, lane);
    let b = at.b + element(part, lane);
    left_second[part] = Eight(vec4<f32>(second_left(a.x), second_left(a.y), second_left(a.z), second_left(a.w)),
                              vec4<f32>(second_left(b.x), second_left(b.y), second_left(b.z), second_left(b.w)));
}

fn load_second(at: Rows, lane: u32) {
    load_second_part(0u, at, lane); load_second_part(1u, at, lane); load_second_part(2u, at, lane); load_second_part(3u, at, lane);
    load_second_part(4u, at, lane); load_second_part(5u, at, lane); load_second_part(6u, at, lane); load_second_part(7u, at, lane);
}

fn second_part(part: u32, at: u32, s: Eight) -> Eight {
    if 2u * part >= D4 { return s; }
    return add_dots(part, left_second[part], second4(at + 2u * part), second4(at + min(2u * part + 1u, D4 - 1u)), s);
}

fn second_scores(at: u32) -> Eight {
    let s = second_part(3u, at, second_part(2u, at, second_part(1u, at, second_part(0u, at, Eight(vec4<f32>(), vec4<f32>())))));
    return second_part(7u, at, second_part(6u, at, second_part(5u, at, second_part(4u, at, s))));
}

// `score` is q · k, `gradient` dout · v.
fn add_gradient(row: u32, score: f32, gradient: f32, log_sum: f32, shift: f32, seen: bool) {
    let probability = probabilities(vec4<f32>(score), p.scale, vec4<f32>(log_sum)).x;
    add_right(row, select(0.0, probability * (gradient - shift) * p.scale, seen), 1.0);
}
