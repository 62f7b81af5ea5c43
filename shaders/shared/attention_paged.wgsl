// Appended with attention_rows.wgsl where keys and values lie in pages: row r of the ranges that `rows_meta` names is
// row r % PAGE of the cache's page pages[r / PAGE]. A row past the table's end, which no query row reads, stands for one
// of its last page.

override PAGE: u32 = 8u; // a multiple of the key block

@group(0) @binding(6) var<storage, read> pages: array<u32>;

fn stored(row: u32) -> u32 {
    return pages[min(row / PAGE, arrayLength(&pages) - 1u)] * PAGE + row % PAGE;
}
