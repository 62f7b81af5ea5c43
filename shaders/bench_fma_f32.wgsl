// The rate of f32 multiply-adds on vectors of four. Appended: shared/bench_chains.wgsl and one of its loops.
alias V = vec4<f32>;
alias E = f32;
fn factor() -> V { return V(x[0]); }
fn addend() -> V { return V(x[1]); }
fn total(s: V) -> f32 { return f32((s.x + s.y) + (s.z + s.w)); }
