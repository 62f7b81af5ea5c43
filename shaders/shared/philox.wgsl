// Philox4x32-10, bit for bit as rng::philox4x32. WGSL has no 64-bit product: the high word comes from halves.
fn high_word(a: u32, b: u32) -> u32 {
    let al = a & 0xffffu; let ah = a >> 16u;
    let bl = b & 0xffffu; let bh = b >> 16u;
    let low = al * bl;
    let cross = ah * bl + (low >> 16u); // cannot overflow: (2¹⁶−1)² + 2¹⁶−1 < 2³²
    let other = al * bh + (cross & 0xffffu);
    return ah * bh + (cross >> 16u) + (other >> 16u);
}

fn philox(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
    var c = counter;
    var k = key;
    for (var round = 0u; round < 10u; round++) {
        c = vec4<u32>(
            high_word(0xCD9E8D57u, c.z) ^ c.y ^ k.x, 0xCD9E8D57u * c.z,
            high_word(0xD2511F53u, c.x) ^ c.w ^ k.y, 0xD2511F53u * c.x,
        );
        k += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
    }
    return c;
}
