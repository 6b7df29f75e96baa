//! `exec`: runs a command.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::{Value, json};
use windlass_model::log::Level;
use windlass_model::{ErrorClass, Failure};

use super::process::{Gated, Order, find_program};
use super::{Act, bounded};
use crate::spec::{ExecWith, ExitCodes, OnUnknown};
use crate::text::Reader;

/// Variables that every command gets, if the process that runs the task has them.
const USUAL: [&str; 9] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR"];
/// The path when there is none.
const USUAL_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
const KEEP: u64 = 8 * 1024;
const KILL_AFTER: Duration = Duration::from_secs(10);
/// How much of a command's last words goes into a failure.
const LAST_WORDS: usize = 600;

fn environment(act: &Act<'_>, with: &ExecWith, reader: &mut Reader<'_>) -> Result<BTreeMap<String, String>, Failure> {
    let mut all = BTreeMap::new();
    for name in USUAL {
        if let Ok(value) = std::env::var(name) {
            all.insert(name.to_owned(), value);
        }
    }
    for name in &with.pass_env {
        act.config.secret(name).map_err(|why| Failure::permanent("not_allowed", why))?;
        let value = std::env::var(name).map_err(|_| {
            Failure::permanent("variable_missing", format!("the variable {name} is to be passed on and is not set"))
                .hint("set it where the task runs, then retry the job")
        })?;
        all.insert(name.clone(), value);
    }
    for (name, text) in &with.env {
        all.insert(name.clone(), reader.read(&format!("the variable {name}"), text)?);
    }
    all.entry("PATH".to_owned()).or_insert_with(|| USUAL_PATH.to_owned());
    all.insert("WINDLASS_KEY".to_owned(), act.key.clone());
    all.insert("WINDLASS_JOB".to_owned(), act.cx.job().to_string());
    all.insert("WINDLASS_TASK".to_owned(), act.cx.spec().resource.clone());
    all.insert("WINDLASS_ATTEMPT".to_owned(), act.cx.epoch().0.to_string());
    if act.undoing {
        all.insert("WINDLASS_UNDO".to_owned(), "1".to_owned());
    }
    Ok(all)
}

/// Runs the command, or finds that an earlier attempt did.
pub(super) async fn run(act: &mut Act<'_>, with: ExecWith) -> Result<Value, Failure> {
    let cx = act.cx;
    let mut reader = Reader::new(act.config);
    let mut argv = Vec::with_capacity(with.argv.len());
    for (n, text) in with.argv.iter().enumerate() {
        argv.push(reader.read(&format!("argument {n} of the command"), text)?);
    }
    let name = argv.first().cloned().unwrap_or_default();
    act.config.command(&name).map_err(|why| Failure::permanent("not_allowed", why))?;
    let folder = cx.work_dir().clone();
    tokio::fs::create_dir_all(&folder).await.map_err(|error| io("make the job's folder", &folder, &error))?;
    let folder = match &with.cwd {
        Some(cwd) => folder.join(reader.read("the folder of the command", cwd)?),
        None => folder,
    };
    let environment = environment(act, &with, &mut reader)?;
    let input = with.stdin.as_ref().map(|text| reader.read("the input of the command", text)).transpose()?;
    let redaction = reader.into_redaction();
    if !folder.is_dir() {
        return Err(Failure::permanent(
            "no_folder",
            format!("{name:?} cannot run in {}: there is no such folder", folder.display()),
        ));
    }
    let path = environment.get("PATH").map_or(USUAL_PATH, String::as_str);
    let program = find_program(&name, path, &folder).ok_or_else(|| {
        Failure::permanent("no_command", format!("the command {name:?} is not found, or may not be run"))
            .hint("install it where the task runs, or write its whole path")
    })?;

    if let Some(process) = act.headway.process.take()
        && process.end()
    {
        let text = format!("{name:?} still ran from an attempt whose worker is gone; it was ended");
        cx.log(Level::Info, "exec.left_running", text, serde_json::Map::new()).await;
    }
    if act.headway.began {
        act.ask(with.on_unknown, &format!("the run of {name:?}")).await?;
    }
    let keep = usize::try_from(with.keep_output.map_or(KEEP, |size| size.0)).unwrap_or(KEEP as usize);
    let order = Order {
        program,
        arguments: argv.split_off(1.min(argv.len())),
        environment,
        folder,
        // Room for a secret that the cut would halve.
        keep: keep + 64 * 1024,
    };
    act.intend("exec", name.clone(), json!({ "argv": with.argv, "key": act.key })).await?;
    cx.may_go_on()?;
    let mut process = Gated::start(&order).map_err(|error| io(&format!("start {name:?} in"), &order.folder, &error))?;
    if act.recorded {
        act.headway.began = true;
        act.headway.asked = false;
        act.headway.process = process.mark();
        act.headway.save(cx).await?;
    }
    let begun = cx.clock().monotonic();
    let limit = with.timeout.map(|span| span.0);
    let (stdout, stderr) = (process.stdout.clone(), process.stderr.clone());
    let seen = || stdout.seen() + stderr.seen();
    let input = input.unwrap_or_default();
    let run = bounded(cx, limit, process.run(&**cx.clock(), input.as_bytes()));
    let ended = cx.outside("exec", Box::pin(act.alive(run, seen, None))).await;
    let grace = with.kill_after.map_or(KILL_AFTER, |span| span.0);
    let status = match ended.and_then(|ended| ended) {
        Err(interrupted) => {
            process.stop(&**cx.clock(), grace).await;
            return Err(interrupted);
        }
        Ok(None) => {
            process.stop(&**cx.clock(), grace).await;
            let limit = windlass_model::quantity::Span(limit.unwrap_or_default());
            let what = format!("{name:?} did not end within {limit} and was stopped");
            if with.on_unknown == OnUnknown::Ask {
                act.ask(OnUnknown::Ask, &what).await?;
            }
            return Err(Failure::new("timed_out", ErrorClass::UnknownOutcome, what));
        }
        Ok(Some(Err(error))) => return Err(io(&format!("wait for {name:?} in"), &order.folder, &error)),
        Ok(Some(Ok(status))) => status,
    };
    let (out, out_cut) = stdout.text(keep, &redaction);
    let (err, _) = stderr.text(keep, &redaction);
    if let Some(failure) = judge(&name, status, &with.exit, &err, &out) {
        return Err(act.ended_badly(failure).await);
    }
    let took = cx.clock().monotonic().saturating_sub(begun);
    let mut output = json!({
        "exit_code": status.code().unwrap_or(-1),
        "stdout": out,
        "stderr": err,
        "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    });
    if with.parse_json {
        let parsed: Result<Value, String> = if out_cut {
            Err("it is longer than `keep_output` keeps".to_owned())
        } else {
            serde_json::from_str(&out).map_err(|error| error.to_string())
        };
        match parsed {
            Ok(value) => output["json"] = value,
            Err(why) => {
                let failure =
                    Failure::permanent("not_json", format!("what {name:?} wrote cannot be read as JSON: {why}"));
                return Err(act.ended_badly(failure).await);
            }
        }
    }
    act.made(output, None, Some(json!({ "exit_code": status.code() }))).await
}

/// What the end of a command means; `None`: success.
fn judge(name: &str, status: ExitStatus, exit: &ExitCodes, stderr: &str, stdout: &str) -> Option<Failure> {
    let (class, text) = match status.code() {
        Some(code) => {
            let is_success = if exit.success.is_empty() { code == 0 } else { exit.success.contains(&code) };
            if is_success {
                return None;
            }
            let may_retry = !exit.permanent.contains(&code) && (exit.retry.is_empty() || exit.retry.contains(&code));
            let class = if may_retry { ErrorClass::Transient } else { ErrorClass::Permanent };
            (class, format!("{name:?} ended with exit code {code}"))
        }
        None => {
            let signal = status.signal().map_or_else(|| "a signal".to_owned(), |signal| format!("signal {signal}"));
            (ErrorClass::UnknownOutcome, format!("{name:?} was ended by {signal}"))
        }
    };
    let mut failure = Failure::new("command_failed", class, text);
    let words = if stderr.trim().is_empty() { stdout.trim() } else { stderr.trim() };
    if !words.is_empty() {
        let mut from = words.len().saturating_sub(LAST_WORDS);
        while !words.is_char_boundary(from) {
            from += 1;
        }
        failure.causes.push(words[from..].to_owned());
    }
    Some(failure.detail("exit_code", status.code()))
}

fn io(what: &str, place: &Path, error: &std::io::Error) -> Failure {
    Failure::transient("exec_failed", format!("cannot {what} {}", place.display())).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(code: i32, exit: &ExitCodes) -> Option<ErrorClass> {
        judge("x", ExitStatus::from_raw(code << 8), exit, "", "").map(|failure| failure.class)
    }

    #[test]
    fn exit_codes_mean_what_the_spec_says() {
        let usual = ExitCodes::default();
        assert_eq!([class(0, &usual), class(1, &usual)], [None, Some(ErrorClass::Transient)]);
        let strict = ExitCodes { success: vec![0, 3], retry: vec![75], permanent: vec![] };
        assert_eq!(class(3, &strict), None);
        assert_eq!(class(75, &strict), Some(ErrorClass::Transient));
        assert_eq!(class(1, &strict), Some(ErrorClass::Permanent));
        let some = ExitCodes { permanent: vec![2], ..ExitCodes::default() };
        assert_eq!([class(2, &some), class(9, &some)], [Some(ErrorClass::Permanent), Some(ErrorClass::Transient)]);
        let killed = judge("x", ExitStatus::from_raw(9), &usual, "last words", "").unwrap();
        assert_eq!((killed.class, killed.causes), (ErrorClass::UnknownOutcome, vec!["last words".to_owned()]));
    }
}
