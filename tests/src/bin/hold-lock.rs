//! Holds a tool's lock for the tests.
//!
//! `hold-lock STATE_LOCK DOTLOCK` prints `held` and holds the lock until its standard input ends, or prints who holds
//! it. `hold-lock STATE_LOCK DOTLOCK TIMES DIR` tries TIMES to take the lock. Whenever it has the lock, it makes and
//! removes DIR. It exits with 99 if DIR existed.

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use zsnap_common::cli::exit::{Exit, run_tool};
use zsnap_common::durable::tool_lock::{Acquired, ToolLock};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [lock, dotlock, rest @ ..] = args.as_slice() else { return ExitCode::from(2) };
    let take = || ToolLock::take(Path::new(lock), Some(Path::new(dotlock)));
    let [times, dir] = rest else {
        return run_tool("hold-lock", || {
            let mut stdout = std::io::stdout();
            match take()? {
                Acquired::Busy { who, .. } => writeln!(stdout, "busy: {who}")?,
                Acquired::Ours(_lock) => {
                    writeln!(stdout, "held")?;
                    std::io::stdin().read_to_end(&mut Vec::new())?;
                }
            }
            Ok(Exit::Done)
        });
    };
    let mut twice = false;
    let mut got = 0;
    let exit = run_tool("hold-lock", || {
        for _ in 0..times.parse::<u32>()? {
            if let Acquired::Ours(_lock) = take()? {
                got += 1;
                let alone = std::fs::create_dir(dir).is_ok();
                std::thread::yield_now();
                if alone {
                    std::fs::remove_dir(dir)?;
                }
                twice |= !alone;
            }
        }
        writeln!(std::io::stdout(), "{got}")?;
        Ok(Exit::Done)
    });
    if twice { ExitCode::from(99) } else { exit }
}
