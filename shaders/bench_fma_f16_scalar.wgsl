// The rate of f16 multiply-adds on single numbers. Appended: shared/bench_chains.wgsl and one of its loops.
enable f16;
alias V = f16;
alias E = f16;
fn factor() -> V { return V(x[0].x); }
fn addend() -> V { return V(x[1].x); }
fn total(s: V) -> f32 { return f32(s); }
