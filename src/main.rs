//! The `tea-wgpu` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    tea_wgpu::cli::main()
}
