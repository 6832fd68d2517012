//! cli

pub mod check;
pub mod crd;

pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
