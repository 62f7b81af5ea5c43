// The caches of rope_cache.wgsl in f32, (rows, KV, D), two elements at a time.

@group(0) @binding(6) var<storage, read_write> k_cache: array<vec2<f32>>;
@group(0) @binding(7) var<storage, read_write> v_cache: array<vec2<f32>>;

fn put_key(at: u32, x: vec2<f32>) { k_cache[at] = x; }

fn put_value(at: u32, x: vec2<f32>) { v_cache[at] = x; }
