//! The binary `zsnap-expire`: calls the library.

fn main() -> std::process::ExitCode {
    zsnap_expire::main()
}
