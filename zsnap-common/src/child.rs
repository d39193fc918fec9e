//! (skeleton: signatures are the contract)
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus};
use std::time::Duration;
/// Where a program is: an absolute path as it is, a bare name from the fixed search path
/// (/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin, never the environment's). Missing or not
/// executable: `Exit::Unavailable` with the remedy.
pub fn find(_program: &Path) -> anyhow::Result<PathBuf> {
    unimplemented!()
}
/// A command with a clean environment: PATH (fixed), LC_ALL=C, TZ=UTC, HOME=/ ; working directory `/`; stdin /dev/null;
/// stdout null.
pub fn command(_program: &Path) -> Command {
    unimplemented!()
}
/// Makes the command run as that user (uid, primary gid, no other groups; HOME and USER set).
/// Nothing is changed if we already are that user. Unknown user: `Exit::Config`.
pub fn run_as(_command: &mut Command, _user: &str) -> anyhow::Result<()> {
    unimplemented!()
}
/// A running child, whose stderr a thread passes to `log::child_line`. Killed and waited for on drop
/// (so a pipe to it is never closed before it is dead: a reader that commits at EOF commits nothing).
pub struct Child {
    _p: (),
}
impl Child {
    /// `label` names it in the log. Sets up stderr itself; stdin and stdout as the command says.
    pub fn spawn(_command: Command, _label: &str) -> anyhow::Result<Child> {
        unimplemented!()
    }
    /// Takes the writing end of its stdin (if piped).
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        unimplemented!()
    }
    /// Takes the reading end of its stdout (if piped).
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        unimplemented!()
    }
    /// Waits for its end; a signal to us (`cancel`) or `timeout` kills it: an error then.
    pub fn wait(&mut self, _timeout: Option<Duration>) -> anyhow::Result<ExitStatus> {
        unimplemented!()
    }
    /// SIGKILL and wait.
    pub fn kill(&mut self) {
        unimplemented!()
    }
    /// The last lines of its stderr, escaped, for an error message; call after `wait`.
    pub fn last_words(&self) -> String {
        unimplemented!()
    }
}
