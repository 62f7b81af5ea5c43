// state (M) = (max, Σ e^(x−max), Σ (x−max)·e^(x−max), target's logit) of columns of logits (M, width).
// Columns go in chunks of CHUNK; a chunk's lanes meet in a fixed tree, chunks follow one another. Giving the chunks in
// one dispatch or in one dispatch each gives the same bits.
// A workgroup a row. Reads and updates state when flag 1 is set, else overwrites it.

override LANES: u32 = 8u;
const CHUNK4: u32 = 1024u; // 4096 columns
const LOWEST: f32 = -3e38;
const FAR: f32 = -100.0; // e^-100 is below the smallest normal f32: nothing next to the maximum's 1

struct Params {
    m: u32,
    width: u32,        // columns
    stride4: u32,      // vec4s from one row to the next
    first_column: u32, // vocabulary index of column 0
    flags: u32,        // 1: go on from state, 2: pick the target's logit
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> logits: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> targets: array<u32>;
@group(0) @binding(2) var<storage, read_write> state: array<vec4<f32>>;

struct Stats {
    top: f32,
    sum: f32,
    weighted: f32,
}

var<workgroup> lane_stats: array<Stats, 256>;

fn decay(d: f32) -> f32 {
    return select(exp(d), 1.0, d == 0.0);
}

fn join(a: Stats, b: Stats) -> Stats {
    let top = max(a.top, b.top);
    let da = max(a.top - top, FAR);
    let db = max(b.top - top, FAR);
    let ea = decay(da);
    let eb = decay(db);
    return Stats(
        top,
        fma(a.sum, ea, b.sum * eb),
        fma(fma(da, a.sum, a.weighted), ea, fma(db, b.sum, b.weighted) * eb),
    );
}

// Columns past the width are far below everything.
fn columns(row_at: u32, c: u32) -> vec4<f32> {
    let x = logits[row_at + c];
    let column = vec4<u32>(4u * c) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<f32>(LOWEST), x, column < vec4<u32>(p.width));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.y * 65535u + group.x;
    if row >= p.m { return; }
    let lane = local.x;
    let row_at = row * p.stride4;
    let width4 = (p.width + 3u) / 4u;
    var run = Stats(LOWEST, 0.0, 0.0);
    var picked = 0.0;
    if (p.flags & 1u) != 0u {
        let s = state[row];
        run = Stats(s.x, s.y, s.z);
        picked = s.w;
    }
    for (var base = 0u; base < width4; base += CHUNK4) {
        let end = min(base + CHUNK4, width4);
        var high = vec4<f32>(LOWEST);
        for (var c = base + lane; c < end; c += LANES) {
            high = max(high, columns(row_at, c));
        }
        let top = max(max(high.x, high.y), max(high.z, high.w));
        var sum = vec4<f32>();
        var weighted = vec4<f32>();
        for (var c = base + lane; c < end; c += LANES) {
            let d = max(columns(row_at, c) - vec4<f32>(top), vec4<f32>(FAR));
            let e = exp(d);
            sum += e;
            weighted = fma(d, e, weighted);
        }
        lane_stats[lane] = Stats(top, (sum.x + sum.y) + (sum.z + sum.w), (weighted.x + weighted.y) + (weighted.z + weighted.w));
        workgroupBarrier();
        for (var half = LANES / 2u; half > 0u; half /= 2u) {
            if lane < half { lane_stats[lane] = join(lane_stats[lane], lane_stats[lane + half]); }
            workgroupBarrier();
        }
        if lane == 0u { run = join(run, lane_stats[0]); }
        workgroupBarrier();
    }
    if lane == 0u {
        if (p.flags & 2u) != 0u {
            let t = targets[row];
            if t >= p.first_column && t - p.first_column < p.width {
                let column = t - p.first_column;
                picked = logits[row_at + column / 4u][column % 4u];
            }
        }
        state[row] = vec4<f32>(run.top, run.sum, run.weighted, picked);
    }
}
