// advantages (ROWS, N) over the root mean square of their row, in place; a row of zeros stays one. A row is a group, or
// all groups of a step. Squares count from the row's largest advantage, so that none overflows or vanishes.
// A workgroup a row. Appended: shared/row_reduce.wgsl.

override LANES: u32 = 8u;
const FAINT: f32 = 1e-30; // a row no larger counts as zeros: drivers may flush what is smaller still

struct Params {
    rows: u32,
    n: u32,
    inverse_n: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> advantages: array<f32>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.y * 65535u + group.x;
    if row >= p.rows { return; }
    let lane = local.x;
    let first = row * p.n;
    var largest = 0.0;
    for (var i = lane; i < p.n; i += LANES) { largest = max(largest, abs(advantages[first + i])); }
    let peak = reduce_max(lane, largest);
    let divisor = select(1.0, peak, peak > FAINT);
    var squares = 0.0;
    for (var i = lane; i < p.n; i += LANES) {
        let a = advantages[first + i] / divisor;
        squares = fma(a, a, squares);
    }
    let share = sqrt(reduce_add(lane, squares) * p.inverse_n);
    for (var i = lane; i < p.n; i += LANES) {
        let a = advantages[first + i];
        advantages[first + i] = select(a, (a / divisor) / share, peak > FAINT);
    }
}
