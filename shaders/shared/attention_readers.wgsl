// Appended with attention_subgroup.wgsl where the eight rows of a workgroup are keys: which query rows read them.

fn ends_of(r: Rows) -> Rows {
    return Rows(min(vec4<u32>(key_ends[r.a.x], key_ends[r.a.y], key_ends[r.a.z], key_ends[r.a.w]), vec4<u32>(p.m)),
                min(vec4<u32>(key_ends[r.b.x], key_ends[r.b.y], key_ends[r.b.z], key_ends[r.b.w]), vec4<u32>(p.m)));
}

fn last_end(ends: Rows) -> u32 {
    let m = max(ends.a, ends.b);
    return max(max(m.x, m.y), max(m.z, m.w));
}

fn reads(query: u32, key: u32, end: u32) -> bool { return query >= key && query < end; }
