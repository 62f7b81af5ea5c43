// dx (M, K) = alpha · dy (M, N) · W (N, K) [+ dx], for subgroups of exactly LANES (8) threads.
// Appended: shared/linear_input_gradient_output.wgsl, shared/weight.wgsl.
// A workgroup is ROWS rows by LANES groups of four columns, and workgroups of the same columns follow each other: their part of W
// stays in the cache. Each lane loads one of the next eight values of a row of dy; they are broadcast one after another. The chain of
// every output is that of linear_input_gradient.wgsl, bit for bit: past the end of N it adds zeros.

override LANES: u32 = 8u;

@group(0) @binding(0) var<storage, read> dy: array<f32>;

// Four columns of eight consecutive rows of W.
struct Eight {
    a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>,
    e: vec4<f32>, f: vec4<f32>, g: vec4<f32>, h: vec4<f32>,
}

fn weight(n: u32, k: u32) -> vec4<f32> {
    return weight4(p.w_row + min(n, p.n - 1u), k);
}

fn weights(n: u32, k: u32) -> Eight {
    return Eight(weight(n, k), weight(n + 1u, k), weight(n + 2u, k), weight(n + 3u, k),
                 weight(n + 4u, k), weight(n + 5u, k), weight(n + 6u, k), weight(n + 7u, k));
}

fn chain8(v: f32, w: Eight, s: vec4<f32>) -> vec4<f32> {
    var t = fma(vec4<f32>(subgroupBroadcast(v, 0u)), w.a, s);
    t = fma(vec4<f32>(subgroupBroadcast(v, 1u)), w.b, t);
    t = fma(vec4<f32>(subgroupBroadcast(v, 2u)), w.c, t);
    t = fma(vec4<f32>(subgroupBroadcast(v, 3u)), w.d, t);
    t = fma(vec4<f32>(subgroupBroadcast(v, 4u)), w.e, t);
    t = fma(vec4<f32>(subgroupBroadcast(v, 5u)), w.f, t);
    t = fma(vec4<f32>(subgroupBroadcast(v, 6u)), w.g, t);
    return fma(vec4<f32>(subgroupBroadcast(v, 7u)), w.h, t);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>,
        @builtin(subgroup_invocation_id) lane: u32) {
    let col = group.y * LANES + local.x;
    let k = min(col, p.k4 - 1u);
    let row = group.x * ROWS;
    let last = p.m - 1u;
    let stride = p.dy_stride * 4u;
    //#each r ROWS: let b{r} = min(row + {r}u, last) * stride + p.dy_offset;
    //#each r ROWS: var s{r} = chain_start(row + {r}u, k);
    for (var n = 0u; n < p.n; n += 8u) {
        let inside = n + lane < p.n;
        let c = min(n + lane, p.n - 1u);
        //#each r ROWS: let v{r} = select(0.0, dy[b{r} + c], inside);
        let w = weights(n, k);
        //#each r ROWS: s{r} = chain8(v{r}, w, s{r});
    }
    //#each r ROWS: store_columns(row + {r}u, col, s{r});
}
