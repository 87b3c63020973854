//! What is said, to whom and when: log files, what is waited for, counts.

use crate::stage::{JOB, Stage, tell};

#[test]
fn a_log_file_holds_what_the_terminal_was_told_each_line_with_its_time() {
    let stage = Stage::new(2000);
    let log = stage.path("log");
    let logged = ["--log-file", log.to_str().unwrap()];
    tell(&stage.target, "ALTER TABLE audio_downloads DROP COLUMN url");
    let refused = stage.begin(&mut stage.migrate(&logged)).end().assert_code(4);
    tell(&stage.target, "ALTER TABLE audio_downloads ADD COLUMN url text");
    let done = stage.begin(&mut stage.migrate(&logged)).end().assert_code(0);
    let quiet = [&logged[..], &["-q"]].concat();
    let again = stage.begin(&mut stage.migrate(&quiet)).end().assert_code(0);
    assert_eq!(again.stderr, "");

    let text = std::fs::read_to_string(&log).unwrap();
    let said = format!("{}\n{}", refused.stderr, done.stderr);
    for line in said.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words = line.strip_prefix("warning: ").unwrap_or(line);
        assert!(text.contains(words), "`{words}` is not in: {text}");
    }
    assert!(
        said.contains("hint: ") && said.contains(&format!("job {JOB} is complete")),
        "{said}"
    );
    let ends = text.matches("is complete: ").count();
    assert_eq!(ends, 2, "what a quiet run would have said is kept too: {text}");
    for line in text.lines() {
        let (time, _) = line.split_once(' ').unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "no time: {line}");
        assert!(!line.contains('\x1b'), "{line}");
    }
}
