//! Settings as the operator meets them: which of four places wins, what is refused, and that nothing is undocumented.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clap::{CommandFactory, Parser};
use longhaul::cli::args::Args;
use longhaul::cli::exit::ExitStatus;
use longhaul::cli::report::Report;
use longhaul::cli::settings::{DEFAULTS, Origin, Setting, Settings, SettingsError};
use longhaul::job::status::JobKind;
use longhaul::job::{BatchRows, ConnectionName, Kind, OnConflict, RateLimit, TuningChange};
use longhaul::observe::progress::ProgressMode;

fn resolve(line: &[&str], environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let args = Args::try_parse_from([&["longhaul"], line].concat()).expect("the line is well formed");
    let pair = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
    Settings::resolve(&args, environment.iter().map(pair).collect::<Vec<_>>())
}

fn job_file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("job.toml");
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its owner's");
    let path = path.to_str().expect("UTF-8").to_owned();
    (dir, path)
}

fn refused(result: Result<Settings, SettingsError>) -> String {
    let report = Report::from(result.expect_err("it is wrong"));
    assert_eq!(report.status(), ExitStatus::Usage);
    report.render(false)
}

#[test]
fn a_flag_beats_the_environment_beats_the_job_file_beats_the_default() {
    let (_dir, file) = job_file("concurrency = 5\nbatch_rows = 500\nmax_rate = \"5MB/s\"\n");
    let environment = [
        ("LONGHAUL_CONCURRENCY", "6"),
        ("LONGHAUL_BATCH_ROWS", "600"),
        ("HOME", "/nowhere"),
    ];
    let settings = resolve(
        &["migrate", "--config", &file, "--concurrency", "7"],
        &environment,
    )
    .expect("good");
    assert_eq!(settings.concurrency, 7);
    assert_eq!(settings.batch_rows, BatchRows { rows: Some(600) });
    assert_eq!(
        settings.max_rate,
        RateLimit {
            bytes_per_second: Some(5_000_000)
        }
    );
    assert_eq!(settings.on_conflict, OnConflict::Error);
    assert_eq!(settings.origin(Setting::Concurrency), Some(&Origin::Flag));
    assert_eq!(settings.origin(Setting::BatchRows), Some(&Origin::Environment));
    assert!(matches!(
        settings.origin(Setting::MaxRate),
        Some(Origin::File { line: 3, .. })
    ));
    assert_eq!(settings.origin(Setting::OnConflict), Some(&Origin::Default));
    assert_eq!(settings.origin(Setting::Source), None);
}

#[test]
fn a_resumed_job_is_given_the_tuning_that_was_asked_for_and_no_default() {
    let settings = resolve(
        &["migrate", "--max-rate", "none"],
        &[("LONGHAUL_BATCH_ROWS", "auto")],
    )
    .expect("good");
    let change = TuningChange {
        concurrency: None,
        batch_rows: Some(BatchRows::AUTO),
        max_rate: Some(RateLimit::NONE),
        interval_ms: None,
    };
    assert_eq!(settings.tuning_change(), change);
    assert!(
        resolve(&["migrate"], &[])
            .expect("good")
            .tuning_change()
            .is_empty()
    );
}

#[test]
fn the_defaults_name_every_setting_and_every_line_without_a_default_would_be_taken() {
    let uncommented: String = DEFAULTS
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest)
                if rest
                    .split_once(" = ")
                    .is_some_and(|(key, _)| Setting::of_key(key).is_some()) =>
            {
                rest
            }
            _ => line,
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let (_dir, file) = job_file(&uncommented);
    let settings = resolve(&["sync", "--config", &file], &[]).expect("every example value is allowed");
    for setting in Setting::ALL {
        assert!(
            settings.is_explicit(setting),
            "{} is not in config/default.toml",
            setting.key()
        );
    }
    let spec = settings
        .job_spec(JobKind::Sync, name("s"), name("t"))
        .expect("a job");
    assert_eq!(
        (spec.kind, spec.lookback_keys),
        (Kind::Sync { interval_ms: 600_000 }, Some(10_000))
    );
}

#[test]
fn triggers_fire_and_a_migrate_verifies_only_where_one_of_the_four_places_says_so() {
    let (_dir, file) = job_file("fire_triggers = true\nverify = true\n");
    let spec = |kind, line: &[&str], environment: &[(&str, &str)]| {
        let settings = resolve(line, environment).expect("good");
        settings.job_spec(kind, name("s"), name("t")).expect("a job")
    };
    let table = ["--table", "t"];
    let migrate = |more: &[&str], environment: &[(&str, &str)]| {
        let spec = spec(
            JobKind::Migrate,
            &[&["migrate"], &table[..], more].concat(),
            environment,
        );
        (spec.fire_triggers, spec.verify.is_some())
    };
    assert_eq!(migrate(&[], &[]), (false, false));
    assert_eq!(migrate(&["--fire-triggers"], &[]), (true, false));
    assert_eq!(migrate(&["--verify"], &[]), (false, true));
    assert_eq!(migrate(&["--config", &file], &[]), (true, true));
    let no = [("LONGHAUL_FIRE_TRIGGERS", "false"), ("LONGHAUL_VERIFY", "false")];
    assert_eq!(migrate(&["--config", &file], &no), (false, false));
    let sync = spec(
        JobKind::Sync,
        &[&["sync", "--config", &file], &table[..]].concat(),
        &[],
    );
    assert!(sync.fire_triggers && sync.verify.is_none(), "a sync has no end");
    let text = refused(resolve(&["migrate"], &[("LONGHAUL_VERIFY", "perhaps")]));
    assert!(text.contains("LONGHAUL_VERIFY"), "{text}");
}

#[test]
fn the_help_names_the_flag_the_variable_and_the_default_of_every_setting() {
    let mut command = Args::command();
    command.build();
    // Between them these two have every setting.
    let helps = ["sync", "migrate"].map(|name| {
        let found = command.find_subcommand_mut(name).expect("it exists");
        found.clone().term_width(10_000).render_long_help().to_string()
    });
    let help = helps.concat();
    let parsed: toml::Table = DEFAULTS.parse().expect("TOML");
    for setting in Setting::ALL {
        let line = help
            .lines()
            .skip_while(|line| !line.contains(&setting.flag()))
            .take(2)
            .collect::<String>();
        assert!(
            line.contains(&setting.environment()),
            "{}: {line}",
            setting.flag()
        );
        if let Some(default) = parsed.get(setting.key()) {
            if let Some(default) = default.as_bool() {
                // A switch says no default: it is off until it is given.
                assert!(
                    !default && !line.contains('<'),
                    "{} is a switch: {line}",
                    setting.flag()
                );
                continue;
            }
            let default = default.as_integer().map_or_else(
                || default.as_str().unwrap_or_default().to_owned(),
                |n| n.to_string(),
            );
            let said = line.contains(&format!("[default: {default}")) || setting == Setting::Progress;
            assert!(said, "{} is {default} by default: {line}", setting.flag());
        }
    }
}

#[test]
fn the_example_job_files_make_jobs() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(examples).expect("it exists") {
        let path = entry.expect("an entry").path();
        let settings = resolve(&["migrate", "--config", path.to_str().expect("UTF-8")], &[]).expect("good");
        assert!(
            settings.source().is_ok() && settings.target().is_ok(),
            "{}",
            path.display()
        );
        settings
            .job_spec(JobKind::Sync, name("s"), name("t"))
            .expect("a job");
        seen += 1;
    }
    assert!(seen >= 2);
}

#[test]
fn an_unknown_key_in_a_job_file_is_named_with_its_line_and_the_nearest_key() {
    let (_dir, file) = job_file("# a job\nbatch_rowz = 3\n");
    let text = refused(resolve(&["migrate"], &[("LONGHAUL_CONFIG", &file)]));
    assert_eq!(
        text,
        format!("error: unknown key `batch_rowz` in {file}, line 2\n\nhint: did you mean `batch_rows`?")
    );
}

#[test]
fn a_wrong_value_is_named_with_the_place_where_it_stands() {
    let (_dir, file) = job_file("table = \"t\"\n\nconcurrency = 1000000\n");
    let text = refused(resolve(&["migrate", "--config", &file], &[]));
    assert!(
        text.contains(&format!("`concurrency` in {file}, line 3")) && text.contains("1 to 64"),
        "{text}"
    );
    let text = refused(resolve(&["migrate"], &[("LONGHAUL_BATCH_ROWS", "0")]));
    assert!(
        text.contains("LONGHAUL_BATCH_ROWS") && text.contains("1 to 10000000"),
        "{text}"
    );
}

#[test]
fn all_that_is_wrong_in_a_file_and_the_environment_is_told_at_once() {
    let (_dir, file) = job_file("concurrency = 0\nbatch_rowz = 3\ntable = [1]\n");
    let text = refused(resolve(
        &["migrate", "--config", &file],
        &[("LONGHAUL_MAX_RATE", "fast")],
    ));
    for place in [
        "`concurrency` in ",
        "`batch_rowz` in ",
        "`table` in ",
        "LONGHAUL_MAX_RATE in the environment",
    ] {
        assert!(text.contains(place), "{place}: {text}");
    }
    assert_eq!(text.matches("error: ").count(), 4, "{text}");
    let settings = resolve(&["migrate", "--table", "t"], &[]).expect("good");
    let text = Report::from(settings.needed().expect_err("two are missing")).render(false);
    assert!(
        text.contains("no source was given") && text.contains("no target was given"),
        "{text}"
    );
    assert_eq!(text.matches("error: ").count(), 2, "{text}");
}

#[test]
fn a_job_file_that_is_not_there_is_an_error_with_its_path() {
    let text = refused(resolve(&["migrate", "--config", "/nowhere/job.toml"], &[]));
    assert!(
        text.contains("/nowhere/job.toml") && text.contains("caused by"),
        "{text}"
    );
}

#[test]
fn a_variable_that_is_no_setting_is_a_warning_and_an_empty_one_is_nothing() {
    let environment = [
        ("LONGHAUL_BATCHROWS", "3"),
        ("LONGHAUL_SOURCE", ""),
        ("LONGHAUL", "x"),
    ];
    let settings = resolve(&["migrate"], &environment).expect("good all the same");
    assert_eq!(
        settings.warnings,
        ["LONGHAUL_BATCHROWS is set, and is not a setting of longhaul; did you mean LONGHAUL_BATCH_ROWS?"]
    );
    assert!(settings.source.is_none());
}

#[test]
fn what_is_missing_is_asked_for_with_all_the_ways_to_give_it() {
    let settings = resolve(&["migrate"], &[]).expect("good");
    let text = Report::from(settings.source().expect_err("none given")).render(false);
    for way in ["no source", "--source", "LONGHAUL_SOURCE", "--config"] {
        assert!(text.contains(way), "{text}");
    }
    assert!(settings.job_name().is_err());
}

#[test]
fn a_job_takes_its_name_and_its_target_table_from_the_table() {
    let settings = resolve(&["migrate", "--table", "Media.Songs"], &[]).expect("good");
    let spec = settings
        .job_spec(JobKind::Migrate, name("s"), name("t"))
        .expect("a job");
    assert_eq!(spec.name.as_str(), "media.songs");
    assert_eq!(spec.target_table.to_string(), "media.songs");
    assert_eq!(
        (spec.kind, spec.tuning.concurrency, spec.tuning.batch_rows),
        (Kind::Migrate, 4, None)
    );
}

#[test]
fn a_relative_state_directory_in_a_job_file_starts_at_the_file() {
    let (dir, file) = job_file("state_dir = \"state\"\n");
    let settings = resolve(&["status", "--config", &file], &[]).expect("good");
    assert_eq!(settings.state_dir, Some(dir.path().join("state")));
    let settings = resolve(&["status", "--state-dir", "state"], &[("LONGHAUL_CONFIG", &file)]).expect("good");
    assert_eq!(settings.state_dir, Some("state".into()));
}

#[test]
fn a_job_file_with_a_password_is_for_its_owner_alone() {
    let lines = |source: &str| format!("table = \"t\"\nsource = \"{source}\"\n");
    for (source, mode, taken) in [
        ("postgres://u:hunter2@h/d", 0o600, true),
        ("postgres://u:hunter2@h/d", 0o640, false),
        ("host=h password=hunter2", 0o604, false),
        ("postgres://u@h/d", 0o644, true),
    ] {
        let (_dir, file) = job_file(&lines(source));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("a mode");
        let resolved = resolve(&["migrate", "--config", &file], &[]);
        if taken {
            resolved.expect("good");
            continue;
        }
        let text = refused(resolved);
        assert!(
            text.contains("the source in") && text.contains("line 2") && text.contains("chmod 0600"),
            "{text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_password_on_the_command_line_is_warned_of_once_and_the_sides_own_variables_are_none_of_ours() {
    let url = "postgres://u:hunter2@h/d";
    let line = ["migrate", "--source", url, "--target", url];
    let own = [
        ("LONGHAUL_SOURCE_PASSWORD", "hunter2"),
        ("LONGHAUL_TARGET_PASSWORD", "hunter2"),
    ];
    let warnings = resolve(&line, &own).expect("good").warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("LONGHAUL_SOURCE_PASSWORD") && !warnings[0].contains("hunter2"));
    let quiet = ["migrate", "--source", "postgres://u@h/d"];
    assert!(
        resolve(&quiet, &[("LONGHAUL_TARGET", url)])
            .expect("good")
            .warnings
            .is_empty()
    );
}

#[test]
fn a_connection_text_is_in_no_debug_output_and_in_no_error() {
    let (_dir, file) = job_file("target = \"postgres://u:hunter2@h/d\"\nconcurrency = 0\n");
    let error = resolve(&["migrate", "--config", &file], &[]).expect_err("concurrency");
    assert!(!format!("{error:?} {error}").contains("hunter2"));
    let settings = resolve(&["migrate"], &[("LONGHAUL_SOURCE", "password=hunter2")]).expect("good");
    assert!(!format!("{settings:?}").contains("hunter2"));
    assert_eq!(settings.source().expect("given").expose(), "password=hunter2");
}

#[test]
fn progress_comes_from_its_four_places_too() {
    assert_eq!(
        resolve(&["resume"], &[]).expect("good").progress,
        ProgressMode::Auto
    );
    let json = [("LONGHAUL_PROGRESS", "json")];
    assert_eq!(
        resolve(&["resume"], &json).expect("good").progress,
        ProgressMode::Json
    );
    assert_eq!(
        resolve(&["resume", "--progress", "none"], &json)
            .expect("good")
            .progress,
        ProgressMode::None
    );
}

fn name(text: &str) -> ConnectionName {
    ConnectionName::without_password(text)
}
