//! The terminal and nothing else: typed arguments, resolved settings, the printed word, the exit status.
//!
//! A command takes [`args`] and [`settings`], speaks through the [`printer`], and ends in an [`exit::ExitStatus`] or in a
//! [`report::Report`]. Nobody imports this room.

pub mod args;
mod command;
pub mod exit;
mod interrupts;
pub mod printer;
pub mod report;
mod resources;
pub mod settings;
pub mod spelling;
pub mod state_dir;
mod suggested;
mod version;

use std::process::ExitCode;

use args::Args;
use printer::Printer;
use report::Report;
use settings::{Setting, Settings};

use crate::observe::Terminal;
use crate::observe::logs::{self, LogOptions};
use crate::observe::progress::ProgressMode;

/// The whole program: reads the command line, carries it out, says how it ended.
pub fn main() -> ExitCode {
    let args = Args::parse_or_exit();
    let color = args.global.color.unwrap_or_default();
    let printer = Printer::new(Terminal::standard(), color).quiet(args.global.quiet);
    let status = run(&args, &printer).unwrap_or_else(|report| {
        printer.report(&report);
        report.status()
    });
    status.into()
}

fn run(args: &Args, printer: &Printer) -> report::Outcome {
    if let Some(outcome) = command::manual(args, printer) {
        return outcome;
    }
    let mut settings = Settings::resolve(args, std::env::vars_os())?;
    let is_quiet = args.global.quiet;
    if is_quiet && !settings.is_explicit(Setting::Progress) {
        settings.progress = ProgressMode::None;
    }
    let leading = suggested::leading(settings.cluster_flags(), args.global.state_dir.as_deref());
    let printer = Printer::new(printer.terminal().clone(), settings.color)
        .quiet(is_quiet)
        .leading(leading);
    let filter = std::env::var("RUST_LOG").ok();
    let log = LogOptions {
        format: settings.log_format,
        verbosity: args.global.verbose,
        is_quiet,
        rust_log: filter.as_deref(),
        color: printer.color(),
        file: settings.log_file.as_deref(),
    };
    logs::init(printer.terminal(), &log)?;
    settings.warnings.iter().for_each(|warning| printer.warn(warning));
    resources::claim()?;
    resources::explain_refusals(&printer);
    let _failpoints = fail::FailScenario::setup();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Report::new(&error, exit::ExitStatus::Failed))?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let outcome = command::execute(args, &settings, &printer).await;
        let status = outcome.unwrap_or_else(|report| {
            printer.report(&report);
            report.status()
        });
        // Ends here, not by taking the runtime down: the SDK's threads panic when it goes before them. Nothing is lost:
        // what was answered is durable, and every other resource was released with its command.
        std::process::exit(status.code().into())
    })
}
