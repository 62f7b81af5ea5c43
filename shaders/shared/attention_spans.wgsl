// For attention_*_tiled.wgsl whose left rows are queries: LEFT neighbours among the batch's rows and, within a row, the query heads of the
// workgroup's KV head. They read keys by spans: first the whole tiles of a prefix that all rows share, read once for all of them, then, run by run,
// the rest of the rows that have their keys in the same place. What a row does not see adds exact zeros to its sums,
// and spans that it is not of add nothing.

struct Span {
    place: vec4<u32>, // what rows_meta says of one of its rows
    rows: vec2<u32>,  // first, end
    keys: vec2<u32>,  // positions: first, end
    last: u32,        // largest position of its rows
}

var<private> span: Span;
var<private> key0: u32;   // position of the tile's first key
var<private> query0: u32; // the first left row's, of M · HEADS
var<private> kv_head: u32;

// The workgroup's rows, as the span of the prefix that they share.
fn shared_span(group: vec3<u32>) -> Span {
    query0 = group.x * LEFT;
    kv_head = group.y;
    let rows = vec2<u32>(query0 / HEADS, min((query0 + LEFT - 1u) / HEADS + 1u, p.m));
    let t = rows_meta[rows.x];
    var alike = true;
    var last = t.w;
    for (var i = rows.x + 1u; i < rows.y; i++) {
        let u = rows_meta[i];
        alike = alike && u.x == t.x && u.y == t.y;
        last = max(last, u.w);
    }
    return Span(t, rows, vec2<u32>(0u, select(0u, t.y / RIGHT * RIGHT, alike)), last);
}

// The run of rows that begins with `row`, from key position `first` on.
fn run_span(row: u32, rows_end: u32, first: u32) -> Span {
    let t = rows_meta[row];
    var end = row + 1u;
    var last = t.w;
    while end < rows_end {
        let u = rows_meta[end];
        if any(u.xyz != t.xyz) { break; }
        last = max(last, u.w);
        end += 1u;
    }
    return Span(t, vec2<u32>(row, end), vec2<u32>(first, last + 1u), last);
}

// Key positions that left row n sees, as far as it is of the span.
fn end_of(n: u32) -> u32 {
    let row = (query0 + n) / HEADS;
    let end = rows_meta[min(row, p.m - 1u)].w + 1u;
    return select(0u, end, row >= span.rows.x && row < span.rows.y);
}

fn takes_part(n: u32) -> bool { return end_of(n) > 0u; }

fn ends(quad: u32) -> vec4<u32> {
    return vec4<u32>(end_of(quad), end_of(quad + LEFT / 4u), end_of(quad + LEFT / 2u), end_of(quad + LEFT / 4u * 3u));
}

fn is_query(n: u32) -> bool {
    return query0 + n < p.m * HEADS;
}

// Which of (M, H) left row n is; past the end, the last.
fn query_at(n: u32) -> u32 {
    let i = min(query0 + n, p.m * HEADS - 1u);
    return i / HEADS * p.heads + kv_head * HEADS + i % HEADS;
}

// Which of (rows, KV) the tile's key n is.
fn key_at(n: u32) -> u32 {
    return key_row(span.place, key0 + n, span.last) * p.kv_heads + kv_head;
}
