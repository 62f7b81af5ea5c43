// The rate of 8×8×8 cooperative matrices, f32 in, f32 sums. Appended: shared/bench_coop.wgsl.
enable wgpu_cooperative_matrix;
const SIDE = 8u;
alias E = f32;
alias S = f32;
alias Left = coop_mat8x8<f32, A>;
alias Right = coop_mat8x8<f32, B>;
alias Sum = coop_mat8x8<f32, C>;
