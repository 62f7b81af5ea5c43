// dv of attention_value_gradient_tiled.wgsl, which is appended, on cooperative matrices: operands rounded to f16, sums in f32. Its tiles are
// walked in the same order, but within a tile the matrix unit adds.
// Appended besides: what that file asks for, with shared/attention_coop.wgsl and attention_coop_8.wgsl or attention_coop_16.wgsl in place
// of attention_tiled.wgsl.
enable f16;
enable wgpu_cooperative_matrix;
