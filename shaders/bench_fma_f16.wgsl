// The rate of f16 multiply-adds on vectors of four. Appended: shared/bench_chains.wgsl and one of its loops.
enable f16;
alias V = vec4<f16>;
alias E = f16;
fn factor() -> V { return V(x[0]); }
fn addend() -> V { return V(x[1]); }
fn total(s: V) -> f32 { return f32((s.x + s.y) + (s.z + s.w)); }
