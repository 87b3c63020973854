//! Users that may not: each right that is missing is found before a row moves, and named. Passwords stay unsaid.

use crate::servers::{pair, try_sql};
use crate::stage::{JOB, Stage, ask, runtime, tell};

/// The same database as another user.
fn as_user(url: &str, user: &str) -> String {
    url.replace("postgres://postgres@", &format!("postgres://{user}@"))
}

fn database(url: &str) -> &str {
    url.rsplit_once('/').unwrap().1
}

#[track_caller]
fn refused(stage: &Stage, source: &str, target: &str, code: i32, words: &[&str]) {
    let mut command = stage.command(&["migrate", "--progress", "none", "--table", JOB]);
    let ended = stage
        .begin(command.args(["--source", source, "--target", target]))
        .end();
    ended
        .assert_code(code)
        .assert_said(&["error:"])
        .assert_said(words);
    assert_eq!(stage.rows(), 0, "nothing moved");
}

#[test]
fn a_missing_right_is_named_on_either_side_and_a_later_grant_mends_it() {
    let stage = Stage::new(500);
    let (source, target) = (stage.source.clone(), stage.target.clone());
    let user = format!("guest_{}", database(&source));
    for url in [&source, &target] {
        tell(url, &format!("CREATE ROLE {user} LOGIN"));
    }
    let (poor_source, poor_target) = (as_user(&source, &user), as_user(&target, &user));
    refused(&stage, &poor_source, &target, 3, &["source", "SELECT", JOB]);
    tell(&source, &format!("GRANT SELECT ON {JOB} TO {user}"));
    refused(
        &stage,
        &poor_source,
        &poor_target,
        4,
        &["target", "SELECT", JOB, "GRANT"],
    );
    tell(&target, &format!("GRANT SELECT ON {JOB} TO {user}"));
    refused(
        &stage,
        &poor_source,
        &poor_target,
        4,
        &["target", "INSERT", JOB, "GRANT"],
    );
    tell(&target, &format!("GRANT INSERT ON {JOB} TO {user}"));
    refused(
        &stage,
        &poor_source,
        &poor_target,
        4,
        &["ledger", "CREATE SCHEMA longhaul AUTHORIZATION"],
    );
    tell(&target, &format!("CREATE SCHEMA longhaul AUTHORIZATION {user}"));
    let mut command = stage.command(&["migrate", "--progress", "none", "--table", JOB]);
    stage
        .begin(command.args(["--source", &poor_source, "--target", &poor_target]))
        .end()
        .assert_code(0);
    stage.assert_moved();
}

#[test]
fn a_wrong_password_is_refused_and_the_right_one_is_said_nowhere() {
    const PASSWORD: &str = "Tr0ub4dor-and-3";
    let stage = Stage::new(2000);
    let user = format!("keeper_{}", database(&stage.source));
    for (server, url) in [(&pair().0, &stage.source), (&pair().1, &stage.target)] {
        let file = server.data().join("pg_hba.conf");
        let rules = std::fs::read_to_string(&file).unwrap();
        std::fs::write(
            &file,
            format!("host all {user} 127.0.0.1/32 scram-sha-256\n{rules}"),
        )
        .unwrap();
        tell(
            url,
            &format!("CREATE ROLE {user} SUPERUSER LOGIN PASSWORD '{PASSWORD}'; SELECT pg_reload_conf()"),
        );
        let scram = "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'scram-sha-256'";
        assert_ne!(ask(url, scram), "0");
    }
    let with = |url: &str, password: &str| as_user(url, &format!("{user}:{password}"));
    let (source, target) = (stage.source.clone(), stage.target.clone());
    crate::binary::until("servers that want a password", || {
        let try_to = |url: &str| {
            runtime()
                .block_on(tokio_postgres::connect(url, tokio_postgres::NoTls))
                .is_err()
        };
        (try_to(&with(&source, "wrong")) && try_to(&with(&target, "wrong"))).then_some(())
    });
    assert!(
        runtime().block_on(try_sql(&source, "SELECT 1")).is_ok(),
        "others need none"
    );
    refused(
        &stage,
        &with(&source, "wr0ng-pass"),
        &target,
        3,
        &["source", "password"],
    );
    refused(
        &stage,
        &source,
        &with(&target, "wr0ng-pass"),
        4,
        &["target", "password"],
    );

    let mut command = stage.command(&["migrate", "--progress", "json", "--table", JOB, "-vv"]);
    command.args([
        "--source",
        &with(&source, PASSWORD),
        "--target",
        &with(&target, PASSWORD),
    ]);
    let ended = stage.begin(command.env("RUST_LOG", "trace")).end();
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert_eq!(ended.code, Some(0), "{}", said.replace(PASSWORD, "PASSWORD"));
    assert!(
        !said.contains(PASSWORD) && !said.contains("wr0ng-pass"),
        "the password is in the log"
    );
    let mut folders = vec![stage.state()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(bytes) = std::fs::read(&path) {
                let found = bytes
                    .windows(PASSWORD.len())
                    .any(|window| window == PASSWORD.as_bytes());
                assert!(!found, "the password is in {}", path.display());
            }
        }
    }
    let ledger = ask(&target, "SELECT jobs::text FROM longhaul.jobs");
    assert!(!ledger.contains(PASSWORD), "the password is in the ledger");
    stage.assert_moved();
}
