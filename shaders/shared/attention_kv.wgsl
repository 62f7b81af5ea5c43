// Keys and values of attention_forward*.wgsl and attention_decode_grouped.wgsl, in f32 or in halves (HALF), two a word: rope_cache.wgsl
// wrote them, and there are no subnormal ones, which `unpack2x16float` may flush, so that it is exact on every driver.

//#if HALF
alias Four = vec2<u32>;

fn four(words: Four) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}
//#else
alias Four = vec4<f32>;

fn four(values: Four) -> vec4<f32> { return values; }
//#end

@group(0) @binding(1) var<storage, read> k: array<Four>;

fn key4(at: u32) -> vec4<f32> { return four(k[at]); }
//#if SUBGROUP

// Values one at a time.
  //#if HALF
@group(0) @binding(2) var<storage, read> v: array<u32>;

fn value(at: u32) -> f32 {
    let two = unpack2x16float(v[at / 2u]);
    return select(two.x, two.y, (at & 1u) == 1u);
}
  //#else
@group(0) @binding(2) var<storage, read> v: array<f32>;

fn value(at: u32) -> f32 { return v[at]; }
  //#end
//#else

@group(0) @binding(2) var<storage, read> v: array<Four>;

fn value4(at: u32) -> vec4<f32> { return four(v[at]); }

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
//#end
