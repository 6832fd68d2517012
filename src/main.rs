fn main() -> std::process::ExitCode {
    reinback::cli::main()
}
