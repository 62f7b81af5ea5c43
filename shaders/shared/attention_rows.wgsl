// Appended by the attention kernels whose lane is a query row; they bind `rows_meta`. `stored` is the row of k and v behind a row of its
// ranges.

//#if PAGED
override PAGE: u32 = 8u; // a multiple of the key block

@group(0) @binding(6) var<storage, read> pages: array<u32>;

// Keys and values lie in pages: row r is row r % PAGE of the cache's page pages[r / PAGE]. A row past the table's end, which no query row
// reads, stands for one of its last page.
fn stored(row: u32) -> u32 {
    return pages[min(row / PAGE, arrayLength(&pages) - 1u)] * PAGE + row % PAGE;
}
//#else
// Keys and values lie in the order of their rows.
fn stored(row: u32) -> u32 { return row; }
//#end

// What the rows of this workgroup have in common. Loads of keys that all lanes share come from uniform
// addresses, which CPU adapters turn into scalar loads. The arithmetic does not depend on it.
struct SharedMeta {
    first: vec4<u32>, // of the workgroup's first row
    prefix: bool,     // the same prefix
    own: bool,        // the same own range
    last: u32,        // largest position
}

fn shared_meta(first: u32, m: u32) -> SharedMeta {
    let t = rows_meta[min(first, m - 1u)];
    var c = SharedMeta(t, true, true, t.w);
    for (var i = 1u; i < LANES; i++) {
        let u = rows_meta[min(first + i, m - 1u)];
        c.prefix = c.prefix && u.x == t.x && u.y == t.y;
        c.own = c.own && u.z == t.z;
        c.last = max(c.last, u.w);
    }
    return c;
}

fn is_uniform(c: SharedMeta, block: u32) -> bool {
    return c.prefix && (c.own || block + 8u <= c.first.y);
}

// Where key position `at` of a row with this meta lives; positions past `last` stand for `last`.
fn key_row(t: vec4<u32>, at: u32, last: u32) -> u32 {
    let position = min(at, last);
    return stored(select(t.z + position - t.y, t.x + position, position < t.y));
}

fn key_rows(t: vec4<u32>, block: u32, last: u32, stride: u32, offset: u32) -> Rows {
    let a = vec4<u32>(key_row(t, block, last), key_row(t, block + 1u, last),
                      key_row(t, block + 2u, last), key_row(t, block + 3u, last));
    let b = vec4<u32>(key_row(t, block + 4u, last), key_row(t, block + 5u, last),
                      key_row(t, block + 6u, last), key_row(t, block + 7u, last));
    return Rows(a * stride + offset, b * stride + offset);
}
