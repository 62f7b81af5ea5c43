// Appended with attention_rows.wgsl and attention_subgroup.wgsl: which keys the eight rows of a workgroup visit. First those of a prompt
// that all of them share, then run by run those of neighbours that share all their keys. A row that a run leaves
// out has no position in it.

struct Run {
    keys: vec4<u32>, // as `rows_meta`, of one of its rows
    first: u32,      // rows first .. end of the workgroup's
    end: u32,
    begin: u32,      // key positions, in blocks of eight
    stop: u32,
}

struct Positions { a: vec4<i32>, b: vec4<i32> }

// Key positions of a prompt that all rows share, in whole blocks.
fn joint_positions(c: SharedMeta) -> u32 {
    return select(0u, c.first.y & ~7u, c.prefix);
}

fn run_from(row: u32, first: u32, begin: u32) -> Run {
    let t = rows_meta[min(row + first, p.m - 1u)];
    var end = first;
    var stop = 0u;
    for (; end < LANES; end++) {
        let u = rows_meta[min(row + end, p.m - 1u)];
        if any(u.xyz != t.xyz) { break; }
        stop = max(stop, u.w + 1u);
    }
    return Run(t, first, end, begin, stop);
}

// Each row's last position, −1 for those that are not of the run.
fn last_positions(run: Run, rows: Rows) -> Positions {
    let a = vec4<u32>(0u, 1u, 2u, 3u);
    let b = a + 4u;
    let positions = Positions(
        vec4<i32>(vec4<u32>(rows_meta[rows.a.x].w, rows_meta[rows.a.y].w, rows_meta[rows.a.z].w, rows_meta[rows.a.w].w)),
        vec4<i32>(vec4<u32>(rows_meta[rows.b.x].w, rows_meta[rows.b.y].w, rows_meta[rows.b.z].w, rows_meta[rows.b.w].w)));
    return Positions(select(vec4<i32>(-1), positions.a, (a >= vec4<u32>(run.first)) & (a < vec4<u32>(run.end))),
                     select(vec4<i32>(-1), positions.b, (b >= vec4<u32>(run.first)) & (b < vec4<u32>(run.end))));
}
