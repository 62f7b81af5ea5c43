// The rate of f16 fused multiply-adds. Appended: a shared/bench_chains_*.wgsl part.
enable f16;
alias V = vec4<f16>;
alias E = f16;
