//! (skeleton: signatures are the contract)
use serde::de::DeserializeOwned;
/// Command line and configuration file as one: see DESIGN.md 3, common rules. `C` is the clap struct, `T` the
/// tables of the file. Usage errors exit 2 through clap's own printer; configuration errors are `Exit::Config` with FILE:LINE.
pub fn parse<C: clap::CommandFactory + clap::FromArgMatches, T: DeserializeOwned + Default>(
    _tool: &str,
) -> anyhow::Result<(C, T)> {
    unimplemented!()
}
/// "7d", "36h", "90min": a duration for `--max-age` and the like.
pub fn duration(_text: &str) -> Result<std::time::Duration, String> {
    unimplemented!()
}
/// "64MiB", "512K", "1G" (powers of two) or plain bytes.
pub fn size(_text: &str) -> Result<u64, String> {
    unimplemented!()
}
/// `--state` as given, or /var/lib/zsnap/TOOL, or for others than root $XDG_STATE_HOME/zsnap/TOOL (~/.local/state).
pub fn state_dir(_given: Option<&std::path::Path>, _tool: &str) -> anyhow::Result<std::path::PathBuf> {
    unimplemented!()
}
