// Appended with attention_rows.wgsl where keys and values lie in the order of their rows.

fn stored(row: u32) -> u32 { return row; }
