//! The one binary of the product.

use std::process::ExitCode;

use clap::Parser;
use engageninja::cli::Cli;

/// A message is many small allocations on many threads, of which the system's allocator took a tenth of the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Two crypto libraries are in the tree; whoever asks for the default one must not have to choose.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cli = Cli::parse();
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(cli.run()),
        Err(error) => {
            eprintln!("engageninja: no runtime: {error}");
            ExitCode::FAILURE
        }
    }
}
