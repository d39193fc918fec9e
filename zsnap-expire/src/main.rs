//! See the library.

fn main() -> std::process::ExitCode {
    zsnap_expire::main()
}
