//! The `tea-wgpu` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    match tea_wgpu::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
