// The rate of f32 fused multiply-adds. Appended: a shared/bench_chains_*.wgsl part.
alias V = vec4<f32>;
alias E = f32;
