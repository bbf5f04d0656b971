//! Time limits for programs: a program that exceeds its limit is killed with all its descendants.

use std::{
    collections::{HashMap, HashSet},
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::shown;

/// Waits for a program. Kills it when the time limit is over.
pub(crate) fn wait(mut child: Child, patience: Duration) -> Result<ExitStatus> {
    let id = child.id();
    let (ended, end) = mpsc::channel();
    let waiting = thread::spawn(move || {
        let status = child.wait();
        let _ = ended.send(());
        status
    });
    let in_time = !matches!(end.recv_timeout(patience), Err(RecvTimeoutError::Timeout));
    if !in_time {
        kill(id)?;
    }
    let status = waiting.join().map_err(|_| anyhow!("waiting for a program failed"))?.context("waiting for a program")?;
    if !in_time {
        bail!("the program exceeded its limit of {} s and was killed", patience.as_secs());
    }
    Ok(status)
}

/// Runs a program to its end, and returns its output. Kills it when the time limit is over.
pub(crate) fn output(command: &mut Command, patience: Duration) -> Result<(ExitStatus, Vec<u8>)> {
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("starting {}", shown(command)))?;
    let mut output = child.stdout.take().context("the program has no standard output")?;
    let reading = thread::spawn(move || {
        let mut printed = Vec::new();
        output.read_to_end(&mut printed).map(|_| printed)
    });
    let status = wait(child, patience)?;
    let printed = reading.join().map_err(|_| anyhow!("reading the output failed"))?.context("reading the output")?;
    Ok((status, printed))
}

/// Returns the first line of a program's output. Reads and drops the rest. Kills the program when
/// the time limit is over.
pub(crate) fn first_line(child: &Child, output: impl Read + Send + 'static, patience: Duration) -> Result<String> {
    let (read, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // The caller waits for the first line only.
            let _ = read.send(line);
        }
    });
    match lines.recv_timeout(patience) {
        Ok(line) => Ok(line),
        Err(RecvTimeoutError::Disconnected) => bail!("the program exited before its first line of output"),
        Err(RecvTimeoutError::Timeout) => {
            kill(child.id())?;
            bail!("the program printed nothing for {} s and was killed", patience.as_secs());
        }
    }
}

/// The events of [`lines`].
pub(crate) enum Heard<'a> {
    Line(&'a [u8]),
    /// The program printed nothing for too long, and its descendants were killed.
    Silence,
}

/// Hands over each line of a program's output until the output ends. If the next line takes longer
/// than `silence`, its descendants are killed and the program may go on. A program without
/// descendants is killed itself.
pub(crate) fn lines(
    child: &Child,
    output: impl Read + Send + 'static,
    silence: Duration,
    mut heard: impl FnMut(Heard<'_>),
) -> Result<()> {
    let (read, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n') {
            if read.send(line).is_err() {
                break;
            }
        }
    });
    loop {
        match lines.recv_timeout(silence) {
            Ok(next) => heard(Heard::Line(&next.context("reading what a program prints")?)),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                let mut family = family(child.id())?;
                if family.len() == 1 {
                    end(&family)?;
                    bail!("the program printed nothing for {} s and was killed", silence.as_secs());
                }
                end(&family.split_off(1))?;
                heard(Heard::Silence);
            }
        }
    }
}

/// Kills a program and its descendants: its output ends only with the last of them.
fn kill(id: u32) -> Result<()> {
    end(&family(id)?)
}

/// Returns a program and all its descendants. The program comes first.
fn family(id: u32) -> Result<Vec<u32>> {
    let listed = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output().context("starting ps")?;
    Ok(with_descendants(id, &String::from_utf8_lossy(&listed.stdout)))
}

fn end(victims: &[u32]) -> Result<()> {
    // A process may have exited meanwhile.
    Command::new("kill").arg("-KILL").args(victims.iter().map(u32::to_string)).output().context("starting kill")?;
    Ok(())
}

/// Returns this process and its descendants. Each line of the list has a process and its parent.
fn with_descendants(id: u32, listed: &str) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for line in listed.lines() {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        if let (Some(Ok(process)), Some(Ok(parent))) = (numbers.next(), numbers.next()) {
            children.entry(parent).or_default().push(process);
        }
    }
    let mut found = vec![id];
    let mut seen = HashSet::from([id]);
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        let below = children.get(parent).into_iter().flatten().copied().filter(|process| seen.insert(*process));
        found.extend(below.collect::<Vec<_>>());
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Command, Stdio},
        time::Duration,
    };

    use super::{Heard, first_line, lines, output, wait, with_descendants};

    #[test]
    fn with_descendants_finds_all_children() {
        assert_eq!(with_descendants(10, " 1 0\n 10 1\n 11 10\n 12 11\n 13 1\n 14 10\n"), [10, 11, 14, 12]);
        assert_eq!(with_descendants(10, ""), [10]);
    }

    /// Returns a shell whose child would hold its output open.
    fn stuck() -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", "echo one; sleep 1000; echo two"]).stdout(Stdio::piped());
        command
    }

    #[test]
    fn wait_kills_a_hanging_program_with_its_descendants() {
        let mut child = stuck().spawn().expect("bash");
        let mut output = child.stdout.take().expect("its output");
        let error = wait(child, Duration::from_millis(300)).expect_err("it does not end");
        assert!(error.to_string().contains("was killed"), "{error}");
        let mut printed = String::new();
        std::io::Read::read_to_string(&mut output, &mut printed).expect("its output ends");
        assert_eq!(printed, "one\n");
    }

    #[test]
    fn output_returns_text_unless_the_time_limit_is_over() {
        let (status, printed) =
            output(Command::new("bash").args(["-c", "echo one; echo two"]), Duration::from_secs(60)).expect("an end");
        assert!(status.success());
        assert_eq!(printed, b"one\ntwo\n");
        let error = output(&mut stuck(), Duration::from_millis(300)).expect_err("it does not end");
        assert!(error.to_string().contains("was killed"), "{error}");
    }

    #[test]
    fn first_line_returns_before_the_program_ends() {
        let said = |script: &str, patience| {
            let mut child = Command::new("bash").args(["-c", script]).stdout(Stdio::piped()).spawn().expect("bash");
            let output = child.stdout.take().expect("its output");
            let said = first_line(&child, output, patience).map_err(|error| error.to_string());
            let _ = child.kill();
            let _ = child.wait();
            said
        };
        assert_eq!(said("echo one; exec sleep 1000", Duration::from_secs(60)), Ok("one".to_owned()));
        assert_eq!(said("true", Duration::from_secs(60)), Err("the program exited before its first line of output".to_owned()));
        let silent = said("sleep 1000", Duration::from_millis(300)).expect_err("silence");
        assert!(silent.contains("printed nothing"), "{silent}");
    }

    /// Returns the lines of output, with an entry for each silence, and the result.
    fn listened(script: &str) -> (Vec<String>, Result<(), String>) {
        let mut child = Command::new("bash").args(["-c", script]).stdout(Stdio::piped()).spawn().expect("bash");
        let output = child.stdout.take().expect("its output");
        let mut printed = Vec::new();
        let end = lines(&child, output, Duration::from_millis(300), |heard| {
            printed.push(match heard {
                Heard::Line(line) => String::from_utf8_lossy(line).into_owned(),
                Heard::Silence => "(silence)".to_owned(),
            });
        });
        child.wait().expect("it ended");
        (printed, end.map_err(|error| error.to_string()))
    }

    #[test]
    fn lines_kills_a_silent_program() {
        let (printed, end) = listened("echo one; exec sleep 1000");
        assert_eq!(printed, ["one"]);
        assert!(end.expect_err("silence").contains("printed nothing"));
    }

    #[test]
    fn lines_kills_hanging_descendants_and_goes_on() {
        let (printed, end) = listened("echo one; sleep 1000; echo two; sleep 1001; echo three");
        assert_eq!(printed, ["one", "(silence)", "two", "(silence)", "three"]);
        assert_eq!(end, Ok(()));
    }
}
