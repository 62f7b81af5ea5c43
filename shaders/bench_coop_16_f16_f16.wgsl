// The rate of 16×16×16 cooperative matrices, f16 in, f16 sums. Appended: shared/bench_coop.wgsl.
enable f16;
enable wgpu_cooperative_matrix;
const SIDE = 16u;
alias E = f16;
alias S = f16;
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f16, C>;
