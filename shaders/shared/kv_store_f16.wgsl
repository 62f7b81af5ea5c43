// As kv_store_f32.wgsl in halves, two neighbouring elements a word, the first in the low bits. Goes with halves.wgsl.

@group(0) @binding(6) var<storage, read_write> k_cache: array<u32>;
@group(0) @binding(7) var<storage, read_write> v_cache: array<u32>;

fn put_key(at: u32, x: vec2<f32>) { k_cache[at] = halves(x); }

fn put_value(at: u32, x: vec2<f32>) { v_cache[at] = halves(x); }
