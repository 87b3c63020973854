//! Named places where a test can make the process die, as a power cut would: no destructor runs, nothing is said.
//!
//! They are in every build, so that the binary that is tested is the one that is shipped; without the variable FAILPOINTS
//! each costs one look into an empty table. `FAILPOINTS='name=3*off->return'` dies at the fourth passage. One does not die:
//! it makes histories short.

/// Every failpoint there is.
pub const ALL: [&str; 10] = [
    "journal::before_apply",
    "journal::after_apply",
    "journal::before_flush",
    "journal::after_flush",
    "service::before_activity_answer",
    "service::after_workflow_task",
    "ledger::after_take_over",
    "copy::before_first_row",
    "copy::before_commit",
    "copy::after_commit",
];

/// Dies here if the test says so.
macro_rules! failpoint {
    ($name:literal) => {
        fail::fail_point!($name, |_| std::process::abort())
    };
}
pub(crate) use failpoint;

/// At so many events a run is asked to continue as new; a test asks sooner: `FAILPOINTS='service::renew_after=return(60)'`.
pub(crate) fn renew_after(events: i64) -> i64 {
    fail::fail_point!("service::renew_after", |sooner: Option<String>| {
        sooner.and_then(|text| text.parse().ok()).unwrap_or(events)
    });
    events
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_list_names_every_failpoint_in_the_sources() {
        let mut found = Vec::new();
        let mut folders = vec![std::path::PathBuf::from(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src"
        ))];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    let calls = text.split("failpoint!(\"").skip(1);
                    found.extend(calls.filter_map(|call| call.split('"').next().map(str::to_owned)));
                }
            }
        }
        // What commits in two places dies in both by one name.
        found.sort();
        found.dedup();
        let mut listed = super::ALL.map(str::to_owned);
        listed.sort();
        // The pattern above is in this file too.
        found.retain(|name| name.contains("::"));
        assert_eq!(found, listed);
    }
}
