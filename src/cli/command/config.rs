//! `config show`, `completions`, `man`: what longhaul says of itself. Nothing of a job is looked at.

use clap::CommandFactory;

use super::super::args::{Args, Command, ConfigCommand};
use super::super::exit::ExitStatus;
use super::super::printer::{ColorChoice, Printer};
use super::super::report::{self, Outcome, Report, SettingRow};
use super::super::settings::{Origin, Secret, Setting, Settings, Wait};
use super::super::state_dir::StateDir;
use crate::observe::logs::LogFormat;
use crate::observe::progress::ProgressMode;
use crate::postgres::ConnectionString;

/// Carries out a command that needs no settings; `None` for every other.
pub fn manual(args: &Args, printer: &Printer) -> Option<Outcome> {
    match &args.command {
        Command::Completions(completions) => Some(complete(completions.shell, printer)),
        Command::Man(man) => Some(pages(man.directory.as_deref(), printer)),
        _ => None,
    }
}

fn complete(shell: clap_complete::Shell, printer: &Printer) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "longhaul", &mut script);
    printer.data(String::from_utf8_lossy(&script).trim_end())?;
    Ok(ExitStatus::Done)
}

fn pages(directory: Option<&std::path::Path>, printer: &Printer) -> Outcome {
    let failed = |error: std::io::Error| {
        let directory = directory.unwrap_or(std::path::Path::new("")).display();
        Report::of(
            format!("cannot write the manual pages to {directory}"),
            ExitStatus::Failed,
        )
        .caused_by(&error.to_string())
    };
    // Descriptions of a single line are what the pages begin with.
    let command = Args::command();
    if let Some(directory) = directory {
        std::fs::create_dir_all(directory).map_err(failed)?;
        clap_mangen::generate_to(command, directory).map_err(failed)?;
        printer.talk(&format!("the manual pages are in {}", directory.display()));
        return Ok(ExitStatus::Done);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).map_err(failed)?;
    printer.data(String::from_utf8_lossy(&page).trim_end())?;
    Ok(ExitStatus::Done)
}

pub fn config(command: &ConfigCommand, settings: &Settings, printer: &Printer) -> Outcome {
    let ConfigCommand::Show(show) = command;
    let rows = Setting::ALL.map(|setting| row(settings, setting));
    if show.json {
        for row in &rows {
            printer.json(row)?;
        }
    } else {
        printer.data(&report::settings(&rows))?;
    }
    Ok(ExitStatus::Done)
}

fn row(settings: &Settings, setting: Setting) -> SettingRow {
    let origin = settings.origin(setting);
    let value = value(settings, setting);
    SettingRow {
        setting: setting.key().to_owned(),
        origin: match origin {
            // What follows from another setting, or from the platform.
            None if value.is_some() => "default",
            None => "unset",
            Some(Origin::Flag) => "flag",
            Some(Origin::Environment) => "variable",
            Some(Origin::File { .. }) => "file",
            Some(Origin::Default) => "default",
        },
        value,
        place: origin.map(|origin| origin.place(setting)),
    }
}

fn value(settings: &Settings, setting: Setting) -> Option<String> {
    let shown = |path: &std::path::Path| path.display().to_string();
    let span = |ms| humantime::format_duration(std::time::Duration::from_millis(ms)).to_string();
    Some(match setting {
        Setting::Source => without_password(settings.source.as_ref()?),
        Setting::Target => without_password(settings.target.as_ref()?),
        Setting::Table => settings.table.as_ref()?.to_string(),
        Setting::TargetTable => settings
            .target_table
            .as_ref()
            .or(settings.table.as_ref())?
            .to_string(),
        Setting::Columns | Setting::Where | Setting::Rename | Setting::Select => {
            settings.shown_of_shape(setting)?
        }
        Setting::Key => settings.key.columns.as_ref()?.to_string(),
        Setting::SourceIsQuiet => settings.key.source_is_quiet.to_string(),
        Setting::SnapshotBelow => format!("{}B", settings.key.snapshot_below_bytes?),
        Setting::Name => settings.job_name().ok()?.to_string(),
        Setting::Concurrency => settings.concurrency.to_string(),
        Setting::BatchRows => settings.batch_rows.to_string(),
        Setting::MaxRate => settings.max_rate.to_string(),
        Setting::OnConflict => settings.on_conflict.to_string(),
        Setting::FireTriggers => settings.fire_triggers.to_string(),
        Setting::LedgerOwner => settings.ledger_owner.clone()?,
        Setting::Verify => settings.verify.to_string(),
        Setting::Interval => span(settings.interval_ms),
        Setting::Wait => match settings.wait {
            Wait::No => "no".to_owned(),
            Wait::Forever => "forever".to_owned(),
            Wait::UpTo(time) => humantime::format_duration(time).to_string(),
        },
        Setting::GiveUpAfter => settings.give_up_after.ms.map_or("never".to_owned(), span),
        Setting::Lookback => settings.lookback_keys?.to_string(),
        Setting::Progress => match settings.progress {
            ProgressMode::Auto => "auto",
            ProgressMode::Bar => "bar",
            ProgressMode::Plain => "plain",
            ProgressMode::Json => "json",
            ProgressMode::None => "none",
        }
        .to_owned(),
        Setting::LogFormat => match settings.log_format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
        .to_owned(),
        Setting::LogFile => shown(settings.log_file.as_deref()?),
        Setting::Color => match settings.color {
            ColorChoice::Auto => "auto",
            ColorChoice::Always => "always",
            ColorChoice::Never => "never",
        }
        .to_owned(),
        Setting::Temporal
        | Setting::TemporalProfile
        | Setting::Namespace
        | Setting::TlsCa
        | Setting::TlsCert
        | Setting::TlsKey
        | Setting::TlsServerName
        | Setting::ApiKeyFile => settings.shown_of_cluster(setting)?,
        Setting::StateDir => {
            let found = StateDir::locate(settings.state_dir.as_deref()).ok()?;
            shown(found.path())
        }
    })
}

/// What a job would keep of a connection's text; a text that is not understood is not shown.
fn without_password(secret: &Secret) -> String {
    match secret.expose().parse::<ConnectionString>() {
        Ok(connection) => connection.name(),
        Err(_) => "(not understood, and so not shown)".to_owned(),
    }
}
