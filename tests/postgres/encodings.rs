//! Databases in other encodings than UTF-8: what fits is copied as it is, what may not fit is said before and where it is.

use crate::servers::{batch, pair, range, run, session, spec, sql, value};
use longhaul::postgres::{Kind, Session, Side, Unmetered, copy_batch};
use longhaul::table::OnConflict;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, a text)";

struct Pair {
    source_url: String,
    target_url: String,
    source: Session,
    target: Session,
}

/// A database in each encoding, with an empty table `t`.
async fn databases(name: &str, from: &str, to: &str) -> Pair {
    let (source, target) = tokio::task::spawn_blocking(pair).await.expect("servers");
    for (server, encoding) in [(source, from), (target, to)] {
        let made = format!(
            "CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        );
        sql(&server.url("postgres"), &made).await;
        sql(&server.url(name), TABLE).await;
    }
    let (source_url, target_url) = (source.url(name), target.url(name));
    Pair {
        source: session(&source_url, Side::Source).await,
        target: session(&target_url, Side::Target).await,
        source_url,
        target_url,
    }
}

/// Copies all of it in one batch; the warnings of the plan.
async fn copied(pair: &Pair) -> (String, longhaul::postgres::Result<u64>) {
    let run = run(&pair.source, &pair.target, spec("t", OnConflict::Error))
        .await
        .unwrap_or_else(|error| panic!("{}", error.chain()));
    let all = batch(0, range(None, "9"));
    let (source, target) = (&pair.source, &pair.target);
    let copied = copy_batch(
        source, target, &run.plan, &run.spec, &run.fence, &all, false, &Unmetered,
    )
    .await;
    (run.plan.warnings.join("; "), copied.map(|tally| tally.rows))
}

#[tokio::test(flavor = "multi_thread")]
async fn text_of_an_encoding_that_utf_8_has_is_copied_as_it_is() {
    for (name, from, to) in [("latin", "LATIN1", "UTF8"), ("both_latin", "LATIN1", "LATIN1")] {
        let pair = databases(name, from, to).await;
        sql(&pair.source_url, "INSERT INTO t VALUES (1, 'é'), (2, chr(255))").await;
        let (warnings, copied) = copied(&pair).await;
        assert_eq!(copied.unwrap(), 2);
        assert!(
            !warnings.contains("encoding") && !warnings.contains("lacks"),
            "{warnings}"
        );
        let text = "SELECT string_agg(a, '' ORDER BY id) FROM t";
        assert_eq!(value(&pair.target_url, text).await, "éÿ");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_the_target_lacks_characters_for_is_said_before_and_where_it_is() {
    let pair = databases("to_latin", "UTF8", "LATIN1").await;
    sql(&pair.source_url, "INSERT INTO t VALUES (1, 'é'), (2, '漢')").await;
    let (warnings, copied) = copied(&pair).await;
    assert!(
        warnings.contains("is in LATIN1, which lacks characters that the source's UTF8 has"),
        "{warnings}"
    );
    let error = copied.unwrap_err();
    assert_eq!(
        (error.side(), error.kind()),
        (Side::Target, Kind::InvalidValue),
        "{}",
        error.chain()
    );
    let hint = error.hint();
    assert!(
        hint.contains("public.t with keys up to (9)") && hint.contains("in UTF8"),
        "{hint}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_no_encoding_are_said_before_named_and_mended_by_the_words_of_the_hint() {
    let pair = databases("ascii", "SQL_ASCII", "UTF8").await;
    sql(
        &pair.source_url,
        "INSERT INTO t VALUES (1, 'plain'), (2, E'\\xe9')",
    )
    .await;
    let (warnings, failed) = copied(&pair).await;
    assert!(
        warnings.contains("keeps text in no encoding (SQL_ASCII)"),
        "{warnings}"
    );
    let error = failed.unwrap_err();
    assert_eq!(
        (error.side(), error.kind()),
        (Side::Source, Kind::InvalidValue),
        "{}",
        error.chain()
    );
    let hint = error.hint();
    assert!(hint.contains("public.t with keys up to (9)"), "{hint}");
    let words = "c = convert_from(convert(convert_to(c, 'SQL_ASCII'), 'LATIN1', 'UTF8'), 'SQL_ASCII')";
    assert!(hint.contains(words), "{hint}");
    let mended = words.replace("c = ", "a = ").replace("to(c,", "to(a,");
    sql(&pair.source_url, &format!("UPDATE t SET {mended} WHERE id = 2")).await;
    let source = session(&pair.source_url, Side::Source).await;
    let (_, copied) = copied(&Pair { source, ..pair }).await;
    assert_eq!(copied.unwrap(), 2);
}
