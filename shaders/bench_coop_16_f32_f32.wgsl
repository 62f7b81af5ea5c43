// The rate of 16×16×16 cooperative matrices, f32 in, f32 sums. Appended: shared/bench_coop.wgsl.
enable wgpu_cooperative_matrix;
const SIDE = 16u;
alias E = f32;
alias S = f32;
alias Left = coop_mat16x16<f32, A>;
alias Right = coop_mat16x16<f32, B>;
alias Sum = coop_mat16x16<f32, C>;
