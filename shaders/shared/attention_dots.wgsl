// Appended with attention_rows.wgsl where keys are read through `key4`.

// The products of the query at `at` with eight keys, each one chain along D.
fn dots(at: u32, r: Rows) -> Eight {
    var a = vec4<f32>();
    var b = vec4<f32>();
    for (var d = 0u; d < D4; d++) {
        let x = q[at + d];
        a.x = chain(x, key4(r.a.x + d), a.x);
        a.y = chain(x, key4(r.a.y + d), a.y);
        a.z = chain(x, key4(r.a.z + d), a.z);
        a.w = chain(x, key4(r.a.w + d), a.w);
        b.x = chain(x, key4(r.b.x + d), b.x);
        b.y = chain(x, key4(r.b.y + d), b.y);
        b.z = chain(x, key4(r.b.z + d), b.z);
        b.w = chain(x, key4(r.b.w + d), b.w);
    }
    return Eight(a, b);
}
