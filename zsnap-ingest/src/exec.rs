//! Receives one queue file on stdin, from NNCP or a forced ssh command. The file is spooled completely, verified, and
//! published in the state directory. Only then is the exit status 0, and zsnap-ingest responsible for the file. EOF
//! alone proves nothing: NNCP ends a damaged packet with a clean EOF too.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use zsnap_common::cli::cancel::Interruptible;
use zsnap_common::cli::escape::escape;
use zsnap_common::cli::exit::{Exit, OrExit};
use zsnap_common::cli::log;
use zsnap_common::durable::publish::{self, NewFile};
use zsnap_common::names::queue_name::{Label, QueueName, Stamp};
use zsnap_common::names::target::{Host, Target};

use crate::cli::Options;
use crate::config::Config;
use crate::joined::Joined;
use crate::opened::{Opened, Reader};
use crate::run;

/// Receives the file on stdin. `sender` is the sender according to NNCP.
pub fn exec(config: &Config, options: &Options, target: Option<OsString>, sender: Option<OsString>) -> Result<Exit> {
    let host = who(config, options.host.as_ref(), sender)?;
    let target = match target {
        Some(raw) => Some(Target::from_operand(&raw, None).or_exit(Exit::Data, "exec")?),
        None => None,
    };
    if let Some(target) = target.as_ref().filter(|t| t.host != host) {
        return Err(Exit::Refused.error(format!("{host} may not send {target}, which is of another host")));
    }
    let dir = config.state.join("exec").join(host.as_str());
    publish::make_dirs(&dir).or_exit(Exit::CantCreate, "exec")?;
    publish::sweep(&dir).or_exit(Exit::Io, "exec")?;
    let new = NewFile::create_in(&dir).or_exit(Exit::CantCreate, "exec")?;
    spool(&new, config, &host)?;
    let now = SystemTime::now();
    let mut name = name_for(&host, target.as_ref(), now);
    let file = new.file().try_clone().and_then(|file| Joined::of(vec![file])).or_exit(Exit::Io, "exec")?;
    // Nothing is kept of it: the run that follows verifies it again.
    let opened = Opened::verify(config, &host, Reader::Exec, (&file, "standard input"), 0, now);
    let target = opened.and_then(|opened| opened.target(&host, &name)).map_err(|rejection| {
        let (exit, why) = rejection.explained();
        exit.error(why)
    })?;
    if matches!(name.label, Label::Digest(_)) {
        name = name_for(&host, Some(&target), now);
    }
    publish(&new, name)?;
    drop(new);
    // From here on zsnap-ingest keeps the file, however the run ends.
    if let Err(e) = run::locked(config, options, Some(&host)) {
        if zsnap_common::cli::cancel::Cancelled::find(&e).is_some() {
            log::info("interrupted; the file is kept for the next run");
        } else {
            log::error(format!("{e:#}; the file is kept for the next run"));
        }
    }
    Ok(Exit::Done)
}

/// Returns the sending host: the one that the forced command specifies, or the one that the NNCP node id belongs to.
fn who(config: &Config, forced: Option<&Host>, sender: Option<OsString>) -> Result<Host> {
    if let Some(host) = forced {
        return Ok(host.clone());
    }
    let Some(sender) = sender else {
        return Err(Exit::Refused.error("who sends this? NNCP_SENDER is not set; a forced command needs --host"));
    };
    let sender = sender.to_string_lossy();
    let host = config.hosts.iter().find(|(_, table)| table.nncp_sender.as_deref() == Some(sender.as_ref()));
    match host {
        Some((host, _)) => Ok(host.clone()),
        None => Err(Exit::Refused
            .error(format!("no host has the NNCP node id {}; add nncp-sender to its [hosts.NAME]", escape(&sender)))),
    }
}

/// Writes stdin to the spool file. More than a stream of max-size could need is not even written to disk.
fn spool(new: &NewFile, config: &Config, host: &Host) -> Result<()> {
    let sealed = |size: u64| size.saturating_add(size / 64).saturating_add(1 << 20);
    let most = config.bounds(host).max_size.map_or(u64::MAX, sealed);
    let mut stdin = Interruptible::new(io::stdin());
    let mut buffer = vec![0; 256 * 1024];
    let mut file = new.file();
    let mut total: u64 = 0;
    loop {
        let n = match stdin.read(&mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other.or_exit(Exit::Io, "stdin")?,
        };
        if n == 0 {
            break;
        }
        total += n as u64;
        if total > most {
            let remedy = format!("if {host} means it, raise max-size in {}", host.table());
            return Err(Exit::Refused.error(format!("more than {most} bytes came; {remedy}")));
        }
        file.write_all(buffer.get(..n).unwrap_or_default()).map_err(|e| full(e, new))?;
    }
    if total == 0 {
        return Err(Exit::Data.error("nothing came on stdin"));
    }
    new.sync().map_err(|e| full(e, new))
}

/// Converts a write error to an exit status. A full disk is temporary: the sender keeps the packet.
fn full(e: io::Error, new: &NewFile) -> anyhow::Error {
    let exit = match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Exit::TryAgain,
        _ => Exit::Io,
    };
    exit.error(format!("{}: {e}", new.path().display()))
}

/// Returns a new name for the file; the order of the sender is in the manifest. Without a target the label is all
/// zeros until the manifest is read.
fn name_for(host: &Host, target: Option<&Target>, now: SystemTime) -> QueueName {
    let micros = now.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
    let stamp = Stamp::from_seq(micros, std::process::id());
    match target {
        Some(target) => QueueName::new(stamp, target, [0; 16], false),
        None => QueueName { stamp, host: host.clone(), label: Label::Digest([0; 16]) },
    }
}

/// Publishes the file. Two files that arrive in the same microsecond get different names.
fn publish(new: &NewFile, mut name: QueueName) -> Result<()> {
    loop {
        match new.link_as(name.to_string().as_ref()) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                name.stamp = Stamp::from_seq(name.stamp.seq() + 1, std::process::id());
            }
            other => return other.map_err(|e| full(e, new)),
        }
    }
}
