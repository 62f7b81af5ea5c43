// For attention_*_tiled.wgsl: products and sums by tiles. A workgroup of 128 threads keeps LEFT rows ("left") of one KV head and walks
// its other rows ("right") RIGHT at a time; every sum is the portable kernel's chain. Those shaders give
//   left4(which, n, d), right4(which, n, d)   vec4 d of left row n and of the tile's right row n, for the products `which`;
//   addend4(n, d), store4(n, d, sums)         what the tile's right row n adds to a left row's sums, and where those go;
//   takes_part(n)                             whether left row n may have a weight other than 0 in this tile;
//   run(group, lane)                          the walk;
//   CORRECTED                                 whether sums are multiplied by `factors` before every eighth right row.
// In products a thread has left rows `quad` + 0, 1, 2, 3 times LEFT / 4 (a vec4 of sums has these) by right rows 4 · `four` + 0, 1, 2, 3;
// in sums up to four shares, each four left rows by one vec4 of D.

const LANES = 128u;

override D4: u32 = 16u;
override LEFT: u32 = 64u;  // LEFT · RIGHT = 2048, LEFT + RIGHT = 96
override RIGHT: u32 = 32u; // a multiple of eight
override SHARES: u32 = 2u; // ⌈LEFT / 4 · D4 / LANES⌉, at most 4
override PART: u32 = 16u;  // of RIGHT, a divisor and a multiple of four, D4 · PART ≤ 384
override HEADS: u32 = 1u;  // query heads of a KV head

var<workgroup> staged: array<vec4<f32>, 384>;  // four vec4s of D of left and right rows; or PART right rows
var<workgroup> weights: array<vec4<f32>, 512>; // (RIGHT, LEFT / 4)
var<workgroup> factors: array<vec4<f32>, 64>;  // (RIGHT / 8, LEFT / 4)
var<private> acc0: mat4x4<f32>; // a column for each left row
var<private> acc1: mat4x4<f32>;
var<private> acc2: mat4x4<f32>;
var<private> acc3: mat4x4<f32>;

// shared/attention_coop.wgsl scales rows of dout here.
fn prepare(lane: u32) {}

// The weights of the tile's right row n for the thread's left rows.
fn set_weights(n: u32, lane: u32, w: vec4<f32>) {
    weights[n * (LEFT / 4u) + lane % (LEFT / 4u)] = w;
}

fn brought(which: u32, i: u32, first: u32) -> vec4<f32> {
    let n = i / 4u;
    let d = min(first + i % 4u, D4 - 1u);
    if n < LEFT { return left4(which, n, d); }
    return right4(which, n - LEFT, d);
}

fn stage(i: u32, v: vec4<f32>) {
    staged[i % 4u * (LEFT + RIGHT) + i / 4u] = v;
}

fn chains(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>, right: vec4<f32>, s: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(chain(a, right, s.x), chain(b, right, s.y), chain(c, right, s.z), chain(d, right, s.w));
}

// A column for each right row: its products with the thread's left rows, each one chain along D.
fn products(which: u32, lane: u32) -> mat4x4<f32> {
    let quads = LEFT / 4u;
    let quad = lane % quads;
    let right = LEFT + lane / quads * 4u;
    var s0 = vec4<f32>(); var s1 = vec4<f32>(); var s2 = vec4<f32>(); var s3 = vec4<f32>();
    var x = brought(which, lane, 0u);
    var y = brought(which, lane + LANES, 0u);
    var z = brought(which, lane + 2u * LANES, 0u);
    for (var first = 0u; first < D4; first += 4u) {
        workgroupBarrier();
        stage(lane, x);
        stage(lane + LANES, y);
        stage(lane + 2u * LANES, z);
        workgroupBarrier();
        // The next are on their way while these are computed on.
        if first + 4u < D4 {
            x = brought(which, lane, first + 4u);
            y = brought(which, lane + LANES, first + 4u);
            z = brought(which, lane + 2u * LANES, first + 4u);
        }
        let count = min(4u, D4 - first);
        for (var i = 0u; i < count; i++) {
            let at = i * (LEFT + RIGHT);
            let l = at + quad;
            let a = staged[l]; let b = staged[l + quads]; let c = staged[l + 2u * quads]; let d = staged[l + 3u * quads];
            s0 = chains(a, b, c, d, staged[at + right], s0);
            s1 = chains(a, b, c, d, staged[at + right + 1u], s1);
            s2 = chains(a, b, c, d, staged[at + right + 2u], s2);
            s3 = chains(a, b, c, d, staged[at + right + 3u], s3);
        }
    }
    return mat4x4<f32>(s0, s1, s2, s3);
}

fn add_row(w: vec4<f32>, v: vec4<f32>, s: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(add_scaled(w.x, v, s[0]), add_scaled(w.y, v, s[1]), add_scaled(w.z, v, s[2]), add_scaled(w.w, v, s[3]));
}

// A share of the sums, with the staged right rows first ..< first + PART added.
fn share(i: u32, first: u32, start: mat4x4<f32>) -> mat4x4<f32> {
    let quads = LEFT / 4u;
    let quad = i / D4;
    var s = start;
    if quad >= quads { return s; }
    for (var r = 0u; r < PART; r += 4u) {
        let row = first + r;
        if CORRECTED && row % 8u == 0u {
            let f = factors[row / 8u * quads + quad];
            s = mat4x4<f32>(s[0] * f.x, s[1] * f.y, s[2] * f.z, s[3] * f.w);
        }
        let w = row * quads + quad;
        let v = r * D4 + i % D4;
        s = add_row(weights[w], staged[v], s);
        s = add_row(weights[w + quads], staged[v + D4], s);
        s = add_row(weights[w + 2u * quads], staged[v + 2u * D4], s);
        s = add_row(weights[w + 3u * quads], staged[v + 3u * D4], s);
    }
    // 0 times what is not finite would be another sequence's trouble.
    return mat4x4<f32>(select(start[0], s[0], takes_part(quad)), select(start[1], s[1], takes_part(quad + quads)),
                       select(start[2], s[2], takes_part(quad + 2u * quads)), select(start[3], s[3], takes_part(quad + 3u * quads)));
}

// Adds the tile's right rows, ascending, each times its `weights`.
fn accumulate(lane: u32) {
    for (var first = 0u; first < RIGHT; first += PART) {
        workgroupBarrier();
        for (var i = lane; i < PART * D4; i += LANES) { staged[i] = addend4(first + i / D4, i % D4); }
        workgroupBarrier();
        acc0 = share(lane, first, acc0);
        if SHARES > 1u { acc1 = share(lane + LANES, first, acc1); }
        if SHARES > 2u { acc2 = share(lane + 2u * LANES, first, acc2); }
        if SHARES > 3u { acc3 = share(lane + 3u * LANES, first, acc3); }
    }
}

fn store_share(i: u32, s: mat4x4<f32>) {
    let quads = LEFT / 4u;
    let quad = i / D4;
    if quad >= quads { return; }
    store4(quad, i % D4, s[0]);
    store4(quad + quads, i % D4, s[1]);
    store4(quad + 2u * quads, i % D4, s[2]);
    store4(quad + 3u * quads, i % D4, s[3]);
}

fn store_sums(lane: u32) {
    store_share(lane, acc0);
    if SHARES > 1u { store_share(lane + LANES, acc1); }
    if SHARES > 2u { store_share(lane + 2u * LANES, acc2); }
    if SHARES > 3u { store_share(lane + 3u * LANES, acc3); }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    run(group, lane);
}
