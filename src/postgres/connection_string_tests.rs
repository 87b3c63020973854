//! What libpq would make of a connection string, and what of it may be seen.

use super::super::resolved::{Host, Place, SessionAttrs, SslMode};
use super::*;

fn parsed(text: &str) -> ConnectionString {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn resolved(text: &str, variables: &[(&str, &str)]) -> Result<Resolved> {
    resolved_for(Side::Source, text, variables)
}

fn resolved_for(side: Side, text: &str, variables: &[(&str, &str)]) -> Result<Resolved> {
    let variable = |name: &str| {
        variables
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| (*value).to_owned())
    };
    let around = Surroundings {
        variable: &variable,
        names: variables.iter().map(|(name, _)| (*name).to_owned()).collect(),
    };
    parsed(text).resolve(side, &around)
}

/// Hosts with their ports.
fn hosts(found: &Resolved) -> Vec<String> {
    let hosts = found.hosts.iter();
    hosts.map(|host| format!("{}:{}", host.name, host.port)).collect()
}

fn passwords(found: &Resolved) -> Vec<Option<&str>> {
    found.hosts.iter().map(|host| host.password.as_deref()).collect()
}

fn pgpass(lines: &str) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".pgpass");
    std::fs::write(&file, lines).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    home
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
    assert_eq!(hosts(&found), ["explicit:7000"]);
    assert_eq!(
        (&*found.user, &*found.database),
        ("from-service", "from-environment")
    );
    let found = resolved("", &environment).unwrap();
    assert_eq!(hosts(&found), ["from-environment:5432"]);
    let error = resolved("service=two", &environment).err().unwrap();
    assert!(error.chain().contains("service `two`"), "{}", error.chain());
}

#[test]
fn the_password_comes_from_the_string_the_environment_or_the_file() {
    let home = pgpass("db:5432:app:joe:from-file\n");
    let home = ("HOME", home.path().to_str().unwrap());
    let both = ("PGPASSWORD", "env");
    let (ours, theirs) = (
        ("LONGHAUL_SOURCE_PASSWORD", "source"),
        ("LONGHAUL_TARGET_PASSWORD", "target"),
    );
    for (text, environment, password) in [
        ("postgres://joe:own@db/app", vec![home, both, ours], Some("own")),
        ("postgres://joe@db/app", vec![home, both], Some("env")),
        (
            "postgres://joe@db/app",
            vec![home, both, ours, theirs],
            Some("source"),
        ),
        ("postgres://joe@db/app", vec![home, theirs], Some("from-file")),
        ("postgres://joe@db/app", vec![home], Some("from-file")),
        ("postgres://ann@db/app", vec![home], None),
    ] {
        let found = resolved(text, &environment).unwrap();
        assert_eq!(passwords(&found), [password], "{text}");
    }
    let found = resolved_for(Side::Target, "postgres://joe@db/app", &[both, ours, theirs]).unwrap();
    assert_eq!(passwords(&found), [Some("target")]);
}

#[test]
fn each_host_has_its_own_password_and_tls_mode() {
    let home = pgpass("a:1:*:joe:for-a\nb:2:*:joe:for-b\n/run/x:3:*:joe:for-x\nlocalhost:*:*:joe:local\n");
    let home = [("HOME", home.path().to_str().unwrap())];
    let text = "host=a,b,/run/x,c port=1,2,3,4 user=joe sslmode=verify-full sslrootcert=/x.crt";
    let found = resolved(text, &home).unwrap();
    assert_eq!(hosts(&found), ["a:1", "b:2", "/run/x:3", "c:4"]);
    assert_eq!(
        passwords(&found),
        [Some("for-a"), Some("for-b"), Some("for-x"), None],
        "a socket that is not the default is not `localhost`"
    );
    let modes: Vec<_> = found.hosts.iter().map(|host| host.mode).collect();
    let full = SslMode::VerifyFull;
    assert_eq!(modes, [full, full, SslMode::Disable, full]);
    // The order does not matter: this one sent its password in the clear.
    let found = resolved(
        "host=/socket,db sslmode=verify-full sslrootcert=/x.crt user=joe",
        &[],
    )
    .unwrap();
    assert_eq!(found.hosts[1].mode, full);
    let error = resolved("host=/socket,db sslmode=verify-full user=joe", &[])
        .err()
        .unwrap();
    assert!(error.chain().contains("sslrootcert"), "{}", error.chain());
}

#[test]
fn hosts_ports_and_defaults_are_libpqs() {
    let found = resolved("postgres://joe@a:1,b:2/app?connect_timeout=3", &[]).unwrap();
    assert_eq!(hosts(&found), ["a:1", "b:2"]);
    assert_eq!(
        found.options.connect_timeout,
        Some(std::time::Duration::from_secs(3))
    );
    let found = resolved("postgres://joe@[::1]:5/", &[]).unwrap();
    assert_eq!(hosts(&found), ["::1:5"]);
    assert_eq!(found.database, "joe", "the database is called as the user");
    let found = resolved("host=/tmp user=joe sslmode=verify-full sslrootcert=x", &[]).unwrap();
    assert_eq!(found.hosts[0].mode, SslMode::Disable, "no TLS on a local socket");
    let found = resolved(
        "host=db,/s hostaddr=10.0.0.1, user=joe port=7 load_balance_hosts=random",
        &[],
    )
    .unwrap();
    let places: Vec<_> = found
        .hosts
        .iter()
        .map(|Host { place, .. }| place.clone())
        .collect();
    assert_eq!(
        places,
        [Place::Address([10, 0, 0, 1].into()), Place::Socket("/s".into())]
    );
    assert!(hosts(&found) == ["db:7", "/s:7"] && found.options.shuffled);
    let found = resolved("host=a user=joe target_session_attrs=prefer-standby", &[]).unwrap();
    assert_eq!(found.options.session_attrs, SessionAttrs::PreferStandby);
    for text in ["host=a,b port=1,2,3", "host=a,b hostaddr=10.0.0.1", "hostaddr=db"] {
        assert!(text.parse::<ConnectionString>().is_err(), "{text}");
    }
}

#[test]
fn a_password_where_the_port_belongs_is_not_shown() {
    for text in [
        "postgres://joe:hunter2/app",
        "postgres://db:hunter2",
        "host=a port=hunter2",
        "host=a sslmode=hunter2",
        "host=a hostaddr=hunter2",
        "host=a connect_timeout=hunter2",
        "host=a require_auth=hunter2",
    ] {
        let error = text.parse::<ConnectionString>().unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = "host=a sslmode=requird".parse::<ConnectionString>().unwrap_err();
    assert_eq!(
        error,
        "`sslmode` is one of disable, allow, prefer, require, verify-ca, verify-full"
    );
}

#[test]
fn no_security_setting_is_left_out_in_silence() {
    for text in [
        "host=a gssencmode=require",
        "host=a sslcertmode=require",
        "host=a sslpassword=x",
        "host=a min_protocol_version=3.2",
        "host=a ssl_max_protocol_version=TLSv1.1",
        "host=a ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2",
        "host=a require_auth=scram",
        "host=a channel_binding=maybe",
        "host=a scram_client_key=x",
    ] {
        assert!(text.parse::<ConnectionString>().is_err(), "{text}");
    }
    for (name, value) in [
        ("PGGSSENCMODE", "require"),
        ("PGSSLMODE", "requird"),
        ("PGSSLCERTMODE", "require"),
        ("PGREQUIREAUTH", "nonsense"),
        ("PGSSLSOMETHINGNEW", "1"),
        ("PGREQUIRESOMETHING", "1"),
        ("PGSSLMINPROTOCOLVERSION", "TLSv1.4"),
    ] {
        let error = resolved("host=a user=joe", &[(name, value)]).err();
        let error = error.unwrap_or_else(|| panic!("{name} is ignored"));
        assert_eq!(error.kind(), Kind::InvalidInput);
    }
    let around = [
        ("PGREQUIRESSL", "1"),
        ("PGREQUIREPEER", "postgres"),
        ("PGSSLMINPROTOCOLVERSION", "tlsv1.3"),
        ("PGREQUIREAUTH", "scram-sha-256"),
        ("PGSSLCRL", "/x.crl"),
        ("PGGSSENCMODE", "prefer"),
        ("PGTZ", "UTC"),
    ];
    let found = resolved("host=a user=joe", &around).unwrap();
    assert_eq!(found.hosts[0].mode, SslMode::Require);
    assert_eq!(found.options.require_peer.as_deref(), Some("postgres"));
    assert_eq!(found.options.tls.versions, [false, true]);
    assert_eq!(found.options.require_auth, "scram-sha-256".parse().unwrap());
    assert!(found.options.tls.revoked.is_some());
    let found = resolved("host=a user=joe requiressl=1", &[]).unwrap();
    assert_eq!(found.hosts[0].mode, SslMode::Require);
    // In a service file as well.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("services");
    std::fs::write(
        &file,
        "[one]\nhost=a\nrequire_auth=md5\n[two]\ngssencmode=require\n[three]\nsslthing=1\n",
    )
    .unwrap();
    let file = [("PGSERVICEFILE", file.to_str().unwrap())];
    let found = resolved("service=one user=joe", &file).unwrap();
    assert_eq!(found.options.require_auth, "md5".parse().unwrap());
    for text in ["service=two user=joe", "service=three user=joe"] {
        assert!(resolved(text, &file).is_err(), "{text}");
    }
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
        let found = resolved(&format!("{text} user=joe"), &[]).unwrap();
        assert_eq!(found.hosts[0].mode, mode, "{text}");
    }
    assert!(resolved("host=a user=joe sslmode=verify-full", &[]).is_err());
    for text in [
        "host=a sslmode=maybe",
        "host=a sslmode=require sslrootcert=system",
    ] {
        assert!(text.parse::<ConnectionString>().is_err(), "{text}");
    }
}

#[test]
fn a_url_in_the_place_of_a_name_is_refused_and_not_shown() {
    for text in [
        "host=h dbname=postgres://app:S3cret@h/media user=app",
        "host=postgresql://app:S3cret@h/media",
        "postgres://app@h/postgres%3A%2F%2Fapp%3AS3cret%40h%2Fmedia",
    ] {
        let error = text.parse::<ConnectionString>().expect_err(text);
        assert!(
            error.contains("holds a URL") && !error.contains("S3cret"),
            "{error}"
        );
    }
}

#[test]
fn a_password_in_the_place_of_another_setting_is_refused_and_not_shown() {
    for (text, words) in [
        (
            "host=h dbname='host=h password=S3cret'",
            "dbname holds a password",
        ),
        (
            "host=h dbname='PASSWORD=S3cret user=app'",
            "dbname holds a password",
        ),
        ("host=h user='app sslpassword=S3cret'", "user holds a password"),
        (
            "host=h options='-c my.password=S3cret'",
            "options holds a password",
        ),
        (
            "host=h application_name=password=S3cret",
            "application_name holds a password",
        ),
        ("postgres://app@h/password%3DS3cret", "dbname holds a password"),
        (
            "host=h application_name=https://app:S3cret@h",
            "application_name holds a URL",
        ),
    ] {
        let error = text.parse::<ConnectionString>().expect_err(text);
        assert!(error.starts_with(words) && !error.contains("S3cret"), "{error}");
    }
    for text in [
        "host=h dbname=a=b user=app password=S3cret://a@b",
        "host=h options='-c password_encryption=md5' application_name=https://wiki.example.net",
    ] {
        text.parse::<ConnectionString>().expect(text);
    }
}
