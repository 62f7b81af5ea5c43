const MAX_D4: u32 = 32u; // vec4s of the private accumulators: head_dim up to 128
