//! `soma`: the platform's one binary. Everything is in the library, so that tests can reach it.

fn main() -> std::process::ExitCode {
    soma_pipelines::cli::run()
}
