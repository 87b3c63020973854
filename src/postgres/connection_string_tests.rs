//! What libpq would make of a connection string, and what of it may be seen.

use super::*;

fn parsed(text: &str) -> ConnectionString {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn resolved(text: &str, variables: &[(&str, &str)]) -> Result<Resolved> {
    let variable = |name: &str| {
        variables
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| (*value).to_owned())
    };
    parsed(text).resolve(Side::Source, &Surroundings { variable: &variable })
}

#[test]
fn no_password_is_ever_shown() {
    for (text, name) in [
        ("postgres://joe:s3cret@db:5433/app", "postgres://joe@db:5433/app"),
        (
            "postgresql://joe:s3c%40ret@db/app?sslmode=require",
            "postgres://joe@db/app?sslmode=require",
        ),
        (
            "postgres://db/app?user=joe&password=s3cret&port=1",
            "postgres://db/app?user=joe&port=1",
        ),
        ("postgres://joe:s3@cret@db/app", "postgres://joe@db/app"),
        ("host=db user=joe password=s3cret", "host=db user=joe"),
        (
            "host=db password = 's3 \\'cret' dbname='a b'",
            "dbname='a b' host=db",
        ),
    ] {
        let connection = parsed(text);
        assert_eq!(connection.name(), name);
        let all = format!("{connection} {connection:?}");
        assert!(!all.contains("s3") && !all.contains("cret"), "{all}");
        assert_eq!(
            parsed(&connection.name()).name(),
            name,
            "a name can be parsed again"
        );
    }
}

#[test]
fn nonsense_is_refused_without_quoting_it() {
    for (text, words) in [
        ("postgres://joe:s3/cret@db/app", "%40"),
        ("postgres://joe:s3?cret@db/app", "%40"),
        ("mysql://joe:s3cret@db/app", "postgres://"),
        ("postgres://joe:s3%zz@db", "hexadecimal"),
        ("s3cret", "key=value"),
        ("host=db password='s3cret", "`password`"),
        ("host=db sslmod=require", "did you mean `sslmode`"),
        (
            "postgres://db/app?colour=s3cret",
            "unknown connection setting `colour`",
        ),
    ] {
        let error = text.parse::<ConnectionString>().unwrap_err();
        assert!(error.contains(words), "{text}: {error}");
        assert!(!error.contains("s3"), "{error}");
    }
}

#[test]
fn explicit_settings_win_over_the_service_and_that_over_the_environment() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("services");
    std::fs::write(&file, "[one]\nhost=from-service\nport=7000\nuser=from-service\n").unwrap();
    let file = file.to_string_lossy();
    let environment = [
        ("PGSERVICEFILE", &*file),
        ("PGHOST", "from-environment"),
        ("PGUSER", "from-environment"),
        ("PGDATABASE", "from-environment"),
    ];
    let found = resolved("service=one host=explicit", &environment).unwrap();
    assert_eq!(found.endpoint, "explicit:7000/from-environment");
    assert_eq!(found.config.get_user(), Some("from-service"));
    let found = resolved("", &environment).unwrap();
    assert_eq!(found.endpoint, "from-environment:5432/from-environment");
    let error = resolved("service=two", &environment).err().unwrap();
    assert!(error.chain().contains("service `two`"), "{}", error.chain());
}

#[test]
fn the_password_comes_from_the_string_the_environment_or_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".pgpass");
    std::fs::write(&file, "db:5432:app:joe:from-file\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let home = ("HOME", home.path().to_str().unwrap());
    for (text, environment, password) in [
        (
            "postgres://joe:own@db/app",
            vec![home, ("PGPASSWORD", "env")],
            Some("own"),
        ),
        (
            "postgres://joe@db/app",
            vec![home, ("PGPASSWORD", "env")],
            Some("env"),
        ),
        ("postgres://joe@db/app", vec![home], Some("from-file")),
        ("postgres://ann@db/app", vec![home], None),
    ] {
        let found = resolved(text, &environment).unwrap();
        assert_eq!(found.config.get_password(), password.map(str::as_bytes), "{text}");
    }
}

#[test]
fn hosts_ports_and_defaults_are_libpqs() {
    let found = resolved("postgres://joe@a:1,b:2/app?connect_timeout=3", &[]).unwrap();
    assert_eq!(found.config.get_hosts().len(), 2);
    assert_eq!(found.config.get_ports(), [1, 2]);
    assert_eq!(found.endpoint, "a:1/app");
    let found = resolved("postgres://joe@[::1]:5/", &[]).unwrap();
    assert_eq!(found.endpoint, "::1:5/joe", "the database is called as the user");
    let found = resolved("host=/tmp user=joe sslmode=verify-full sslrootcert=x", &[]).unwrap();
    assert_eq!(found.tls.mode, SslMode::Disable, "no TLS on a local socket");
    assert!(resolved("host=a port=x", &[]).is_err());
}

#[test]
fn sslmode_means_what_it_means_to_libpq() {
    for (text, mode) in [
        ("host=a", SslMode::Prefer),
        ("host=a sslmode=require", SslMode::Require),
        ("host=a sslmode=require sslrootcert=/x.crt", SslMode::VerifyCa),
        ("host=a sslrootcert=system", SslMode::VerifyFull),
        (
            "host=a sslmode=verify-full sslrootcert=/x.crt",
            SslMode::VerifyFull,
        ),
    ] {
        assert_eq!(resolved(text, &[]).unwrap().tls.mode, mode, "{text}");
    }
    for text in [
        "host=a sslmode=verify-full",
        "host=a sslmode=maybe",
        "host=a sslmode=require sslrootcert=system",
    ] {
        assert!(resolved(text, &[]).is_err(), "{text}");
    }
}
