//! `cargo bench -- FILTER`: `tea-wgpu bench kernels --quick FILTER`, built as a release is.

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    // What cargo adds is for harnesses of its own.
    let flags = std::env::args().skip(1).filter(|flag| flag != "--bench");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"));
    let status = bench.args(["bench", "kernels", "--quick"]).args(flags).status();
    match status.map(|status| status.success()) {
        Ok(true) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
