const MAX_D4: u32 = 16u; // vec4s of the private accumulators: head_dim up to 64
