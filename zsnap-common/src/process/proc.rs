//! Processes as proc(5) shows them. Without /proc, no process is found.

use std::fs;

/// Returns when a process began, in clock ticks since boot; `None` if it has ended.
pub fn began(pid: u32) -> Option<u64> {
    living(pid)?.get(19)?.parse().ok()
}

/// Returns the processes of a process group that have not ended.
pub fn group(group: u32) -> Vec<u32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let group = group.to_string();
    pids.filter(|pid| living(*pid).is_some_and(|fields| fields.get(2) == Some(&group))).collect()
}

/// Returns the fields of /proc/PID/stat after the name, which may contain spaces and parentheses. Field 0
/// here is field 3 in proc_pid_stat(5). `None` if the process has ended.
fn living(pid: u32) -> Option<Vec<String>> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let fields: Vec<_> = text.rsplit_once(") ")?.1.split_whitespace().map(str::to_owned).collect();
    // In a zombie with further threads, only the main thread has ended.
    let ended = match fields.first()?.as_str() {
        "Z" => fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count) < 2,
        state => state == "X",
    };
    (!ended).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    #[test]
    fn group_lists_the_living_members_of_a_process_group() {
        let mut leader =
            Command::new("sh").args(["-c", "sleep 1000 & exec sleep 1000"]).process_group(0).spawn().unwrap();
        let id = leader.id();
        while group(id).len() < 2 {
            std::thread::yield_now();
        }
        assert!(group(id).contains(&id) && began(id).is_some());
        leader.kill().unwrap();
        // The leader is a zombie until we wait for it.
        while group(id).contains(&id) {
            std::thread::yield_now();
        }
        assert_eq!((began(id), group(id).len()), (None, 1));
        let pid = rustix::process::Pid::from_raw(id.try_into().unwrap()).unwrap();
        rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).unwrap();
        leader.wait().unwrap();
        while !group(id).is_empty() {
            std::thread::yield_now();
        }
    }
}
