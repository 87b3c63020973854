//! What to do about an error of a verification: hints of the copy's name flags that `verify` does not have.

use std::future::Future;

use crate::postgres::{Error, Kind};

/// Flags of `migrate` and `sync` that hints speak of.
const FLAGS: [&str; 3] = ["--restart", "--on-conflict", "--fire-triggers"];

/// Runs an activity of a verification; its errors have hints that make sense there.
pub(super) async fn hinted<T>(body: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    body.await.map_err(in_verification)
}

/// The error with a way out that a verification has, or one that says whose flags it names.
pub(super) fn in_verification(error: Error) -> Error {
    if error.kind() == Kind::ConflictingRow {
        return error.hinted(
            "a unique index of the target, other than the key's, keeps a row out that another row is in the way of; nothing of \
             this range was put right: mend the rows that are named by hand, two that have exchanged a value by way of a third one",
        );
    }
    let hint = error.hint().to_owned();
    let named: Vec<_> = FLAGS.into_iter().filter(|flag| hint.contains(flag)).collect();
    match named.as_slice() {
        [] => error,
        [only] => error.hinted(format!(
            "{hint} ({only} is a flag of the migrate or sync that copies the table, not of verify)"
        )),
        several => error.hinted(format!(
            "{hint} ({} are flags of the migrate or sync that copies the table, not of verify)",
            several.join(" and ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::Side;

    #[test]
    fn no_hint_of_a_verification_names_a_flag_that_it_lacks_without_saying_whose_it_is() {
        for kind in [
            Kind::ConflictingRow,
            Kind::NotEmpty,
            Kind::Incompatible,
            Kind::Emptied,
            Kind::Ledger,
            Kind::Privilege,
        ] {
            let error = in_verification(Error::new(Side::Target, kind, "something is wrong"));
            let names = FLAGS.iter().any(|flag| error.hint().contains(flag));
            let says_whose = error
                .hint()
                .contains("of the migrate or sync that copies the table");
            assert_eq!(names, says_whose, "{kind:?}: {}", error.hint());
        }
        let error = Error::new(Side::Target, Kind::ConflictingRow, "a row is in the way");
        assert!(in_verification(error).hint().contains("by hand"));
    }
}
