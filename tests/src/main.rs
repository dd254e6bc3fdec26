fn main() -> std::process::ExitCode {
    ringway_cli::run()
}
