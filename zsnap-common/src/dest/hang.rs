//! What is known of a delivery that was given up because nothing happened any more: a note in the
//! outbox, `.hang.json`. Without it, or with an old one, time is lost and nothing else.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::publish;
use crate::queue_name::{Label, QueueName};
use crate::target::Host;

const NOTE: &str = ".hang.json";

/// The note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hang {
    /// When it was given up: seconds since 1970.
    pub at: u64,
    /// The file that a program was given.
    pub file: Option<String>,
    /// The process that the kernel did not let go.
    process: Option<Process>,
}

/// A process, told from a later one of the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Process {
    pid: u32,
    /// When it began: clock ticks since the machine was started.
    began: u64,
}

impl Hang {
    /// What is to be noted now; `left` is the process that was left behind.
    pub(super) fn now(file: Option<String>, left: Option<u32>) -> Hang {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Hang { at, file, process: left.and_then(|pid| Some(Process { pid, began: began(pid)? })) }
    }

    /// From the outbox; `None`: nothing hung, or the note cannot be read.
    pub fn read(outbox: &Path) -> Option<Hang> {
        serde_json::from_slice(&fs::read(outbox.join(NOTE)).ok()?).ok()
    }

    pub(super) fn write(&self, outbox: &Path) -> anyhow::Result<()> {
        Ok(publish::write_durably(&outbox.join(NOTE), &serde_json::to_vec(self)?)?)
    }

    /// Removes the note: a delivery has ended.
    pub(super) fn clear(outbox: &Path) {
        // If that fails it is only believed for longer.
        let _ = fs::remove_file(outbox.join(NOTE));
    }

    /// Whose files were delivered.
    pub fn line(&self) -> Option<(Host, Label)> {
        let name: QueueName = self.file.as_ref()?.parse().ok()?;
        Some((name.host, name.label))
    }

    /// The process that was left behind, if it is still there.
    pub fn process(&self) -> Option<u32> {
        let process = self.process.as_ref()?;
        (began(process.pid) == Some(process.began)).then_some(process.pid)
    }
}

/// When a process began that has not ended.
fn began(pid: u32) -> Option<u64> {
    let fields = stat(pid)?;
    // The first one here is the third in proc_pid_stat(5).
    (fields.first()? != "Z").then(|| fields.get(19)?.parse().ok())?
}

/// What stands behind the name in /proc/PID/stat: that may hold spaces and parentheses.
pub(super) fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    Some(text.rsplit_once(") ")?.1.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_counts_while_it_is_there_and_is_the_same() {
        let outbox = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let hang = Hang::now(Some("bakfsfmt2-1.000000002.3_h@tank@a".into()), Some(child.id()));
        hang.write(outbox.path()).unwrap();
        let read = Hang::read(outbox.path()).unwrap();
        assert_eq!((&read, read.process()), (&hang, Some(child.id())));
        assert_eq!(read.line().unwrap().0.as_str(), "h");
        let process = Process { pid: child.id(), began: hang.process.as_ref().unwrap().began + 1 };
        assert_eq!(Hang { process: Some(process), ..hang.clone() }.process(), None);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(read.process(), None);
        Hang::clear(outbox.path());
        assert_eq!(Hang::read(outbox.path()), None);
        fs::write(outbox.path().join(NOTE), "{").unwrap();
        assert_eq!(Hang::read(outbox.path()), None);
    }
}
