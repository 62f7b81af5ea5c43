// For the attention kernels on subgroups of exactly LANES (8) threads: a workgroup's eight rows against blocks of eight rows of the other
// side, heads of up to 64 dimensions, of which eight at a time are a part. For the scores a lane is a row of the block; for the sums it is
// an element of each part. What all lanes need of a row, each of them loads one element of, and it is broadcast between registers. Every
// sum is the portable kernel's chain, bit for bit.
// The kernel says where operands are: `left_element`, `other4` (the block's rows as scores need them), `right_element` (as sums do), and `put`.

override LANES: u32 = 8u;
override D4: u32 = 16u;

const PARTS = 8u;

var<private> left: array<Eight, PARTS>;  // by part, then by row
var<private> right: array<Eight, PARTS>; // by part, then by row of the block
var<private> sums: array<Eight, 8>;      // by row, then by part

// The lane's element of a part of D; past the end, the last.
fn element(part: u32, lane: u32) -> u32 { return min(8u * part + lane, 4u * D4 - 1u); }

fn load_left_part(part: u32, at: Rows, lane: u32) {
    if 2u * part >= D4 { return; }
    let a = at.a + element(part, lane);
    let b = at.b + element(part, lane);
    left[part] = Eight(vec4<f32>(left_element(a.x), left_element(a.y), left_element(a.z), left_element(a.w)),
                       vec4<f32>(left_element(b.x), left_element(b.y), left_element(b.z), left_element(b.w)));
}

// Rows that start there.
fn load_left(at: Rows, lane: u32) {
    load_left_part(0u, at, lane); load_left_part(1u, at, lane); load_left_part(2u, at, lane); load_left_part(3u, at, lane);
    load_left_part(4u, at, lane); load_left_part(5u, at, lane); load_left_part(6u, at, lane); load_left_part(7u, at, lane);
    let zero = Eight(vec4<f32>(), vec4<f32>());
    sums = array<Eight, 8>(zero, zero, zero, zero, zero, zero, zero, zero);
}

fn load_right_part(part: u32, at: Rows, lane: u32) {
    if 2u * part >= D4 { return; }
    let a = at.a + element(part, lane);
    let b = at.b + element(part, lane);
    right[part] = Eight(vec4<f32>(right_element(a.x), right_element(a.y), right_element(a.z), right_element(a.w)),
                        vec4<f32>(right_element(b.x), right_element(b.y), right_element(b.z), right_element(b.w)));
}

fn load_right(at: Rows, lane: u32) {
    load_right_part(0u, at, lane); load_right_part(1u, at, lane); load_right_part(2u, at, lane); load_right_part(3u, at, lane);
    load_right_part(4u, at, lane); load_right_part(5u, at, lane); load_right_part(6u, at, lane); load_right_part(7u, at, lane);
}

fn first_half(l: f32, x: vec4<f32>, s: f32) -> f32 {
    let b = vec4<f32>(subgroupBroadcast(l, 0u), subgroupBroadcast(l, 1u), subgroupBroadcast(l, 2u), subgroupBroadcast(l, 3u));
    return chain(b, x, s);
}

fn second_half(l: f32, y: vec4<f32>, s: f32) -> f32 {
    let b = vec4<f32>(subgroupBroadcast(l, 4u), subgroupBroadcast(l, 5u), subgroupBroadcast(l, 6u), subgroupBroadcast(l, 7u));
    return chain(b, y, s);
}

fn dots4(l: vec4<f32>, x: vec4<f32>, y: vec4<f32>, whole: bool, s: vec4<f32>) -> vec4<f32> {
    let t = vec4<f32>(first_half(l.x, x, s.x), first_half(l.y, x, s.y), first_half(l.z, x, s.z), first_half(l.w, x, s.w));
    if !whole { return t; }
    return vec4<f32>(second_half(l.x, y, t.x), second_half(l.y, y, t.y), second_half(l.z, y, t.z), second_half(l.w, y, t.w));
}

// Adds the products of eight rows with the lane's row of the block, of which x and y are this part.
fn add_dots(part: u32, l: Eight, x: vec4<f32>, y: vec4<f32>, s: Eight) -> Eight {
    let whole = 2u * part + 1u < D4;
    return Eight(dots4(l.a, x, y, whole, s.a), dots4(l.b, x, y, whole, s.b));
}

fn scores_part(part: u32, at: u32, s: Eight) -> Eight {
    if 2u * part >= D4 { return s; }
    return add_dots(part, left[part], other4(at + 2u * part), other4(at + min(2u * part + 1u, D4 - 1u)), s);
}

// The products of the eight rows with the lane's row of the block, which starts at this vec4.
fn scores(at: u32) -> Eight {
    let s = scores_part(3u, at, scores_part(2u, at, scores_part(1u, at, scores_part(0u, at, Eight(vec4<f32>(), vec4<f32>())))));
    return scores_part(7u, at, scores_part(6u, at, scores_part(5u, at, scores_part(4u, at, s))));
}

// A value that each lane has one of, from all lanes.
fn spread(e: f32) -> Eight {
    return Eight(vec4<f32>(subgroupBroadcast(e, 0u), subgroupBroadcast(e, 1u), subgroupBroadcast(e, 2u), subgroupBroadcast(e, 3u)),
                 vec4<f32>(subgroupBroadcast(e, 4u), subgroupBroadcast(e, 5u), subgroupBroadcast(e, 6u), subgroupBroadcast(e, 7u)));
}

fn add_part(part: u32, e: Eight, s: f32) -> f32 {
    if 2u * part >= D4 { return s; }
    return chain(e.b, right[part].b, chain(e.a, right[part].a, s));
}

// Adds the block's rows, each by its lane's factor, to `correction` times a row's sums.
fn add_right(row: u32, factor: f32, correction: f32) {
    let e = spread(factor);
    let s = Eight(sums[row].a * correction, sums[row].b * correction);
    sums[row] = Eight(
        vec4<f32>(add_part(0u, e, s.a.x), add_part(1u, e, s.a.y), add_part(2u, e, s.a.z), add_part(3u, e, s.a.w)),
        vec4<f32>(add_part(4u, e, s.b.x), add_part(5u, e, s.b.y), add_part(6u, e, s.b.z), add_part(7u, e, s.b.w)));
}

fn put_part(part: u32, at: u32, lane: u32, x: f32) {
    if 8u * part + lane < 4u * D4 { put(at + 8u * part, x); }
}

// Stores the first `count` rows' sums; the lane's element of the first is at `at`. One place in the code that stores a part:
// eight times as many take drivers long to compile.
fn store_sums(count: u32, at: u32, width: u32, lane: u32) {
    var rows = sums;
    for (var i = 0u; i < count; i++) {
        let to = at + i * width;
        let r = rows[i];
        put_part(0u, to, lane, r.a.x); put_part(1u, to, lane, r.a.y); put_part(2u, to, lane, r.a.z); put_part(3u, to, lane, r.a.w);
        put_part(4u, to, lane, r.b.x); put_part(5u, to, lane, r.b.y); put_part(6u, to, lane, r.b.z); put_part(7u, to, lane, r.b.w);
    }
}

// first .. first + 8, none beyond the last row.
fn rows_from(first: u32, last: u32) -> Rows {
    return Rows(min(vec4<u32>(first, first + 1u, first + 2u, first + 3u), vec4<u32>(last)),
                min(vec4<u32>(first + 4u, first + 5u, first + 6u, first + 7u), vec4<u32>(last)));
}

// Where each row's elements start, in rows of `width` elements of which the first is at `first`.
fn starts(r: Rows, width: u32, first: u32) -> Rows {
    return Rows(r.a * width + first, r.b * width + first);
}
