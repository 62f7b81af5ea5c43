//! The `tea-wgpu` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    prepare_environment();
    tea_wgpu::cli::main()
}

/// Sets what drivers read of the environment. It has to stay the first thing that `main` does. Starting the program anew
/// with another environment would need no `unsafe`, but `/proc/self/exe` is the loader where one starts the program.
#[allow(
    unsafe_code,
    reason = "the environment may be written while the process has one thread; nobody else can set it in time"
)]
fn prepare_environment() {
    if let Some((name, value)) = tea_wgpu::gpu::quiet_device_select(|name| std::env::var_os(name)) {
        // SAFETY: `main` has started no thread, and nothing holds a pointer into the environment.
        unsafe { std::env::set_var(name, value) };
    }
}
