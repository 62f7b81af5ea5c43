// ordered (G, M): every group's rewards (G, M) ascending. M up to 4096, which fills the 16 KiB of workgroup memory.
// A bitonic network whose comparators all put the smaller value first, so that padding to a power of two (as +∞ after
// the end) never moves and needs no memory: comparators that reach past M are skipped.
// A workgroup a group; overwrites ordered.

override LANES: u32 = 8u;

struct Params {
    groups: u32,
    m: u32,
    half: u32, // half of M's next power of two: comparators a stage
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> rewards: array<f32>;
@group(0) @binding(1) var<storage, read_write> ordered: array<f32>;

var<workgroup> keys: array<f32, 4096>;

fn compare(low: u32, high: u32) {
    if high >= p.m { return; }
    let a = keys[low];
    let b = keys[high];
    if a > b {
        keys[low] = b;
        keys[high] = a;
    }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let g = group.y * 65535u + group.x;
    if g >= p.groups { return; }
    let lane = local.x;
    let first = g * p.m;
    for (var i = lane; i < p.m; i += LANES) { keys[i] = rewards[first + i]; }
    workgroupBarrier();
    // Blocks of 2·run: fold the sorted halves onto each other, then halve the distance down to 1.
    for (var run = 1u; run <= p.half; run *= 2u) {
        for (var t = lane; t < p.half; t += LANES) {
            let at = t & (run - 1u);
            let block = (t - at) * 2u;
            compare(block + at, block + 2u * run - 1u - at);
        }
        workgroupBarrier();
        for (var step = run / 2u; step > 0u; step /= 2u) {
            for (var t = lane; t < p.half; t += LANES) {
                let at = t & (step - 1u);
                let low = (t - at) * 2u + at;
                compare(low, low + step);
            }
            workgroupBarrier();
        }
    }
    for (var i = lane; i < p.m; i += LANES) { ordered[first + i] = keys[i]; }
}
