// 16 rows of y a workgroup, 16 K an iteration. Goes with linear_forward_subgroup.wgsl and linear_output.wgsl.
alias At = vec4<u32>;
alias Work = Eight;

fn work(n: At, k: u32) -> Work {
    return eight(n, k);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>,
        @builtin(subgroup_invocation_id) lane: u32) {
    let col = (begin(group) * LANES + local.x) * 4u;
    let n = rows_of(col);
    let row = group.y * 16u;
    let last = p.m - 1u;
    let stride = p.x_stride * 4u;
    let b0 = row * stride;
    let b1 = min(row + 1u, last) * stride;
    let b2 = min(row + 2u, last) * stride;
    let b3 = min(row + 3u, last) * stride;
    let b4 = min(row + 4u, last) * stride;
    let b5 = min(row + 5u, last) * stride;
    let b6 = min(row + 6u, last) * stride;
    let b7 = min(row + 7u, last) * stride;
    let b8 = min(row + 8u, last) * stride;
    let b9 = min(row + 9u, last) * stride;
    let b10 = min(row + 10u, last) * stride;
    let b11 = min(row + 11u, last) * stride;
    let b12 = min(row + 12u, last) * stride;
    let b13 = min(row + 13u, last) * stride;
    let b14 = min(row + 14u, last) * stride;
    let b15 = min(row + 15u, last) * stride;
    var s0 = vec4<f32>(); var s1 = vec4<f32>(); var s2 = vec4<f32>(); var s3 = vec4<f32>();
    var s4 = vec4<f32>(); var s5 = vec4<f32>(); var s6 = vec4<f32>(); var s7 = vec4<f32>();
    var s8 = vec4<f32>(); var s9 = vec4<f32>(); var s10 = vec4<f32>(); var s11 = vec4<f32>();
    var s12 = vec4<f32>(); var s13 = vec4<f32>(); var s14 = vec4<f32>(); var s15 = vec4<f32>();
    for (var k = 0u; k < p.k4; k += 4u) {
        let c = k * 4u + lane;
        let d = c + 8u;
        let u0 = values(b0, c); let u1 = values(b1, c); let u2 = values(b2, c); let u3 = values(b3, c);
        let u4 = values(b4, c); let u5 = values(b5, c); let u6 = values(b6, c); let u7 = values(b7, c);
        let u8 = values(b8, c); let u9 = values(b9, c); let u10 = values(b10, c); let u11 = values(b11, c);
        let u12 = values(b12, c); let u13 = values(b13, c); let u14 = values(b14, c); let u15 = values(b15, c);
        let v0 = values(b0, d); let v1 = values(b1, d); let v2 = values(b2, d); let v3 = values(b3, d);
        let v4 = values(b4, d); let v5 = values(b5, d); let v6 = values(b6, d); let v7 = values(b7, d);
        let v8 = values(b8, d); let v9 = values(b9, d); let v10 = values(b10, d); let v11 = values(b11, d);
        let v12 = values(b12, d); let v13 = values(b13, d); let v14 = values(b14, d); let v15 = values(b15, d);
        let w = with_weight(n, k);
        let z = with_weight(n, k + 2u);
        s0 = chain8(v0, z, chain8(u0, w, s0)); s1 = chain8(v1, z, chain8(u1, w, s1));
        s2 = chain8(v2, z, chain8(u2, w, s2)); s3 = chain8(v3, z, chain8(u3, w, s3));
        s4 = chain8(v4, z, chain8(u4, w, s4)); s5 = chain8(v5, z, chain8(u5, w, s5));
        s6 = chain8(v6, z, chain8(u6, w, s6)); s7 = chain8(v7, z, chain8(u7, w, s7));
        s8 = chain8(v8, z, chain8(u8, w, s8)); s9 = chain8(v9, z, chain8(u9, w, s9));
        s10 = chain8(v10, z, chain8(u10, w, s10)); s11 = chain8(v11, z, chain8(u11, w, s11));
        s12 = chain8(v12, z, chain8(u12, w, s12)); s13 = chain8(v13, z, chain8(u13, w, s13));
        s14 = chain8(v14, z, chain8(u14, w, s14)); s15 = chain8(v15, z, chain8(u15, w, s15));
    }
    var t0 = vec4<f32>(); var t1 = vec4<f32>(); var t2 = vec4<f32>(); var t3 = vec4<f32>();
    var t4 = vec4<f32>(); var t5 = vec4<f32>(); var t6 = vec4<f32>(); var t7 = vec4<f32>();
    var t8 = vec4<f32>(); var t9 = vec4<f32>(); var t10 = vec4<f32>(); var t11 = vec4<f32>();
    var t12 = vec4<f32>(); var t13 = vec4<f32>(); var t14 = vec4<f32>(); var t15 = vec4<f32>();
    if LORA {
        for (var k = 0u; k < rank4(); k++) {
            let b = second_weights(col, k);
            t0 = chain4(hidden_sides(row, k), b, t0);
            t1 = chain4(hidden_sides(row + 1u, k), b, t1);
            t2 = chain4(hidden_sides(row + 2u, k), b, t2);
            t3 = chain4(hidden_sides(row + 3u, k), b, t3);
            t4 = chain4(hidden_sides(row + 4u, k), b, t4);
            t5 = chain4(hidden_sides(row + 5u, k), b, t5);
            t6 = chain4(hidden_sides(row + 6u, k), b, t6);
            t7 = chain4(hidden_sides(row + 7u, k), b, t7);
            t8 = chain4(hidden_sides(row + 8u, k), b, t8);
            t9 = chain4(hidden_sides(row + 9u, k), b, t9);
            t10 = chain4(hidden_sides(row + 10u, k), b, t10);
            t11 = chain4(hidden_sides(row + 11u, k), b, t11);
            t12 = chain4(hidden_sides(row + 12u, k), b, t12);
            t13 = chain4(hidden_sides(row + 13u, k), b, t13);
            t14 = chain4(hidden_sides(row + 14u, k), b, t14);
            t15 = chain4(hidden_sides(row + 15u, k), b, t15);
        }
    }
    // One place in the code that stores: sixteen take drivers long to compile.
    var outputs = array<vec4<f32>, 16>(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15);
    var seconds = array<vec4<f32>, 16>(t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11, t12, t13, t14, t15);
    for (var i = 0u; i < 16u; i++) {
        store_four(row + i, col, outputs[i], seconds[i]);
    }
}
