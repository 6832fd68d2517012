//! The binary; everything else is in the library.

/// glibc gives each thread an arena of its own and keeps what is freed. jemalloc is told otherwise (`.cargo/config.toml`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    reinback::cli::main()
}
