//! What the process needs of the system: open files, asked for and counted before they run out, and an error in words where
//! the system refuses something in the middle of foreign code that knows no better than to panic.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::exit::ExitStatus;
use super::printer::Printer;
use super::report::Report;

/// Streams, runtime, journal, lock, log, certificates and name lookups while they are read, and a few clients of the socket.
const FILES_OF_A_PROCESS: u64 = 48;
/// Sessions to one server beside those that copy: the look for the next batch, the one after that, and a take-over.
const SESSIONS_BESIDE: u64 = 4;

/// How a panic says that the system has refused something.
const REFUSALS: [&str; 4] = [
    "Too many open files",
    "Resource temporarily unavailable",
    "Cannot allocate memory",
    "OS can't spawn",
];

/// Umask 077: what this process makes is for its user alone. And as many open files as it may have.
///
/// # Errors
/// Where a process that only asks a question could not open what it needs.
pub fn claim() -> Result<(), Report> {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Where even this is refused, what there is may be enough.
    _ = setrlimit(Resource::Nofile, raised);
    must_have(FILES_OF_A_PROCESS)
}

/// Whether a job of that concurrency can have all files open that it needs.
///
/// # Errors
/// With the number, where it cannot.
pub fn must_suffice_for(concurrency: u32) -> Result<(), Report> {
    must_have(files_of_a_job(concurrency))
}

fn files_of_a_job(concurrency: u32) -> u64 {
    FILES_OF_A_PROCESS + 2 * (u64::from(concurrency) + SESSIONS_BESIDE)
}

fn must_have(files: u64) -> Result<(), Report> {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < files => Err(Report::of(
            format!("this needs {files} open files, and the system allows {limit}"),
            ExitStatus::Service,
        )
        .with_hint(format!(
            "ulimit -n {files} before the same command (under systemd: LimitNOFILE={files}), or a smaller --concurrency"
        ))),
        _ => Ok(()),
    }
}

/// A panic because the system has refused threads, files or memory ends the process with an error; others stay panics.
pub fn explain_refusals(printer: &Printer) {
    let (printer, before) = (printer.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        let words = panic.payload_as_str().unwrap_or_default();
        let Some(report) = refusal(words) else {
            return before(panic);
        };
        printer.report(&report);
        std::process::exit(report.status().code().into());
    }));
}

fn refusal(words: &str) -> Option<Report> {
    let refused = REFUSALS.iter().any(|refusal| words.contains(refusal));
    refused.then(|| {
        Report::of("the system has refused what longhaul needs to go on", ExitStatus::Service)
            .caused_by(words.lines().next().unwrap_or_default())
            .with_hint(
                "nothing is lost: raise the limit of open files (ulimit -n), of processes (ulimit -u) or of memory, then give \
                 the same command again"
                    .to_owned(),
            )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_needs_two_sessions_a_batch_and_some_more() {
        assert_eq!(files_of_a_job(4), 48 + 16);
        assert!(
            files_of_a_job(64) < 256,
            "what every system allows is enough for any job"
        );
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert!(must_have(limit).is_ok());
        if let Some(more) = limit.checked_add(1) {
            let report = must_have(more).expect_err("more than is allowed").render(false);
            assert!(
                report.contains(&format!("ulimit -n {more}")) && report.contains(&limit.to_string()),
                "{report}"
            );
        }
    }

    #[test]
    fn a_panic_for_want_of_threads_or_files_is_told_and_others_are_not() {
        let (os, files) = (
            std::io::Error::from_raw_os_error(11),
            std::io::Error::from_raw_os_error(24),
        );
        for words in [
            format!("failed to spawn thread: {os:?}"),
            format!("OS can't spawn worker thread: {os}"),
            format!("called `Result::unwrap()` on an `Err` value: {files:?}"),
        ] {
            let report = refusal(&words).expect("a refusal");
            assert_eq!(report.status(), ExitStatus::Service);
            assert!(report.render(false).contains(&words), "{}", report.render(false));
        }
        assert_eq!(
            refusal("index out of bounds: the len is 0 but the index is 0"),
            None
        );
    }
}
