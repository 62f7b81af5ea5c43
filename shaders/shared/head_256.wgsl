const MAX_D4: u32 = 64u; // vec4s of the private accumulators: head_dim up to 256
