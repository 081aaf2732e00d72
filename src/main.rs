//! `medlake`: configuration, wiring and process life. The only code that knows every room.

use std::{path::PathBuf, process::ExitCode, str::FromStr};

use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;

mod clock;
mod conductor;
mod config;
mod control;
mod input;
mod life;
mod publishing;
mod pulse;
mod requests;
mod screen;
mod sources;
mod up;
mod upkeep;

use config::Config;
use life::{Parts, StopSignals};

/// Batches are freed by other threads than made them. The system's allocator keeps what was freed in
/// one arena for each thread or so: into slow storage, 588 MiB where this one takes 362.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Stop with this status when the command line or the configuration is wrong.
const BAD_CONFIGURATION: u8 = 2;

/// The stack of a worker. Planning goes down the tree of a statement by recursion, and the doors take
/// statements of 1,000 operators. Only what is used of it takes memory.
const STACK_BYTES: usize = 64 << 20;

/// An analytics-first data platform for an internet hospital.
#[derive(Debug, Parser)]
#[command(name = "medlake", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Settings in YAML; MEDLAKE__ROOM__KEY variables and flags overrule them.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the operational databases and the lake [default: ./data].
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// What to log, such as `debug` or `medlake_lake=debug`.
    #[arg(long, global = true, value_name = "FILTER", default_value = "warn,medlake=info")]
    log: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything in one process: services, traffic, ingest, lake, marts, doors, screen.
    Up {
        /// Mean simulated orders a second.
        #[arg(long)]
        rate: Option<f64>,
        /// Same seed, same traffic.
        #[arg(long)]
        seed: Option<u64>,
        /// Run without simulated traffic.
        #[arg(long)]
        no_simulate: bool,
    },
    /// Run the operational services alone.
    Operational,
    /// Run ingest, lake and marts alone, beside services in another process.
    Pipeline,
    /// Run the doors and the screen alone, over what another process commits to the lake.
    Serve,
    /// Make a simulated history, drive running services with simulated traffic, or both.
    Simulate {
        /// First make a history of so many days, such as `180d`, in the databases of the data folder.
        #[arg(long, value_name = "DAYS", value_parser = days)]
        backfill: Option<u32>,
        /// How many people there are.
        #[arg(long)]
        people: Option<usize>,
        /// Make the history, and no traffic after it.
        #[arg(long, requires = "backfill")]
        only_backfill: bool,
        /// Mean orders a second.
        #[arg(long)]
        rate: Option<f64>,
        /// Same seed, same traffic.
        #[arg(long)]
        seed: Option<u64>,
        /// Where the services listen [default: operational.listen].
        #[arg(long, value_name = "URL")]
        services: Option<String>,
    },
    /// Play recorded data through the services' own code, in time order; goes on where it stopped.
    Replay {
        /// Which recording.
        dataset: Dataset,
        /// Folder of its files.
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// Recorded seconds a second; as fast as it goes when left out.
        #[arg(long)]
        speed: Option<f64>,
    },
    /// See to what the running pipeline takes in: how it is, copy tables again, compare them.
    Ingest {
        #[command(subcommand)]
        request: control::Request,
    },
    /// Look after the lake by hand, and verify it.
    Lake {
        #[command(subcommand)]
        upkeep: upkeep::Upkeep,
    },
    /// Make the first administrator, and clients, of the services that want tokens.
    Identity {
        #[command(subcommand)]
        request: IdentityRequest,
    },
    /// Print the settings in force, or every problem with them.
    Config,
}

#[derive(Debug, Subcommand)]
enum IdentityRequest {
    /// Make an account that may do everything; prints a password that is good for one sign-in.
    CreateAdmin {
        /// What to sign in with.
        #[arg(long)]
        login: String,
    },
    /// Make a client; prints its id and, if it keeps one, its secret.
    CreateClient {
        /// Its name, which those who sign in see.
        #[arg(long)]
        name: String,
        /// It cannot keep a secret: an app, or a page.
        #[arg(long)]
        public: bool,
        /// Where those who signed in are sent.
        #[arg(long, value_name = "URL")]
        redirect_uri: Vec<String>,
        /// What its tokens may grant at most, such as "mall.read mall.write".
        #[arg(long, default_value = "")]
        permissions: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Dataset {
    /// A year of 2,469 households in a chain of shops: 1,469,307 order lines.
    Completejourney,
    /// Two years of dispensings to 100 patients.
    Adherer,
    /// Blood pressure monitors and continuous glucose meters: 57,000 readings.
    Devices,
    /// 27 synthetic patients with conditions, medication and encounters over their lives, or more.
    Synthea,
    /// Invoices of a wholesaler with their credit notes: 14,594 lines of December 2010, or more.
    Uci,
}

/// A number of days, with or without a `d` behind it.
fn days(text: &str) -> Result<u32, String> {
    let days = text.strip_suffix('d').unwrap_or(text).parse();
    match days {
        Ok(days @ 1..=3650) => Ok(days),
        _ => Err("must be a number of days from 1 to 3650, such as 180d".to_owned()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (runtime, stop) = match runtime(&arguments.command) {
        Ok(begun) => begun,
        Err(error) => {
            eprintln!("could not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let config = match settings(&arguments) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("the configuration cannot be used:");
            for problem in problems {
                eprintln!("  {problem}");
            }
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    let filter = match tracing_subscriber::EnvFilter::from_str(&arguments.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("--log \"{}\" cannot be used: {error}", arguments.log);
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();

    match runtime.block_on(Box::pin(run(arguments.command, config, stop))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("medlake: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What runs it all, and what tells a command that goes on until it is stopped to stop: from here on,
/// however much there is to do before it has started.
fn runtime(command: &Command) -> std::io::Result<(Runtime, Option<StopSignals>)> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()?;
    let goes_on = matches!(
        command,
        Command::Up { .. }
            | Command::Operational
            | Command::Pipeline
            | Command::Serve
            | Command::Simulate { .. }
    );
    let stop = goes_on.then(|| runtime.block_on(async { StopSignals::listen() })).transpose()?;
    Ok((runtime, stop))
}

async fn run(command: Command, config: Config, stop: Option<StopSignals>) -> anyhow::Result<()> {
    let starting = start(command, config);
    let Some(mut stop) = stop else { return starting.await.map(drop) };
    let started = tokio::select! {
        biased;
        // What was begun is like what a crash leaves, and no part runs yet that would have to end.
        () = stop.received() => return Ok(()),
        started = starting => started?,
    };
    match started {
        Some(parts) => parts.run_until(stop).await,
        None => Ok(()),
    }
}

/// Does what is asked, or starts the parts that go on until they are stopped.
async fn start(command: Command, config: Config) -> anyhow::Result<Option<Parts>> {
    match command {
        Command::Up { .. } => Box::pin(up::everything(config)).await.map(Some),
        Command::Operational => up::operational(config).await.map(Some),
        Command::Pipeline => Box::pin(up::pipeline(config)).await.map(Some),
        Command::Serve => up::serve(config).await.map(Some),
        Command::Simulate { backfill, only_backfill, services, .. } => {
            let live = (!only_backfill).then_some(services);
            up::simulate(&config, backfill, live).await.map(Some)
        }
        Command::Replay { dataset, from, speed } => {
            Box::pin(up::replay(&config, dataset, &from, speed)).await.map(|()| None)
        }
        Command::Ingest { request } => control::ask(&config.data, &request).await.map(|()| None),
        Command::Lake { upkeep } => {
            Box::pin(upkeep::run(up::lake_settings(&config), upkeep)).await.map(|()| None)
        }
        Command::Identity { request } => {
            Box::pin(up::identity(&config, request)).await.map(|()| None)
        }
        Command::Config => {
            up::say(&config.to_string());
            Ok(None)
        }
    }
}

/// The settings: file, environment, then what this command's flags say.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
fn settings(arguments: &Arguments) -> Result<Config, Vec<config::Problem>> {
    let mut said: Vec<(&str, String)> = Vec::new();
    if let Some(data) = &arguments.data {
        said.push(("data", data.display().to_string()));
    }
    if let Command::Up { rate, seed, .. } | Command::Simulate { rate, seed, .. } =
        &arguments.command
    {
        said.extend(rate.map(|rate| ("simulate.orders_per_second", rate.to_string())));
        said.extend(seed.map(|seed| ("simulate.seed", seed.to_string())));
    }
    if let Command::Simulate { people: Some(people), .. } = &arguments.command {
        said.push(("simulate.people", people.to_string()));
    }
    if let Command::Up { no_simulate: true, .. } = &arguments.command {
        said.push(("simulate.enabled", "false".to_owned()));
    }
    Config::load(arguments.config.as_deref(), std::env::vars(), &said)
}
