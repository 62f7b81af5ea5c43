// The rate of 8×8×8 cooperative matrices, f16 in, f16 sums. Appended: shared/bench_coop.wgsl.
enable f16;
enable wgpu_cooperative_matrix;
const SIDE = 8u;
alias E = f16;
alias S = f16;
alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f16, C>;
