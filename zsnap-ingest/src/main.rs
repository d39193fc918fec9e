//! The executable; see the library.

fn main() -> std::process::ExitCode {
    zsnap_ingest::main()
}
