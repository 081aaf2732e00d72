//! Wires the parts: all of them, or some beside others in another process.

use std::{
    collections::BTreeMap,
    future::IntoFuture as _,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use medlake_ingest::{Budget, CutLimits, Wake};
use medlake_lake::{Follower, Lake, LakeConfig, S3Config, S3Credentials, Secret};
use medlake_operational::{
    Access, Options, Services, Storage,
    files::{BucketAccess, FileStore},
    identity::{self, NewClient, Permission, Permissions},
    mall,
};
use medlake_query_server::{Dashboard, QueryServer, QueryServerConfig};
use medlake_semantic_layer::Model;
use medlake_transforms::Transforms;
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Dataset, IdentityRequest, clock,
    conductor::{Conductor, Pace},
    config::{ClientCredentials, Config, DatabaseServer, SERVICES, SimulateSettings, SourceConfig},
    control::Control,
    input::{
        self,
        simulate::{
            backfill::{self, BackfillConfig, Stage},
            live::{self, LiveConfig},
        },
    },
    life::Parts,
    publishing::{self, Publishing},
    pulse::Pulse,
    screen, sources,
};

/// The catalog's name, for other engines.
const CATALOG: &str = "medlake";

/// How often a process without the services looks whether they have committed.
const SOURCES_LOOKED_AT_EVERY: Duration = Duration::from_millis(20);

/// How often a process without the pipeline looks whether it has committed.
const CATALOG_LOOKED_AT_EVERY: Duration = Duration::from_millis(100);

/// How long the doors wait for a pipeline to make the tables.
const PIPELINE_PATIENCE: Duration = Duration::from_secs(30);

/// How long requests under way get to be answered when the process stops.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Services, traffic, ingest, lake, marts, doors, screen.
pub(crate) async fn everything(mut config: Config) -> anyhow::Result<Parts> {
    let channels = simulated_channels(&mut config)?;
    let committed = Arc::new(Notify::new());
    let services = open_services(&config, Arc::clone(&committed)).await?;
    let listen = bind(config.operational.listen, "operational.listen").await?;

    let http = bind(config.query.http, "query.http").await?;
    let postgres = bind(config.query.postgres, "query.postgres").await?;

    let mut parts = Parts::default();
    let (conductor, control) = conductor(&config, Wake::Notified(committed)).await?;
    let pulse = conductor.pulse();
    let server = doors(&config, conductor.views())?.with_status(conductor.pulse());
    start_doors(&mut parts, server, http, postgres);
    parts.start("pipeline", |cancel| conductor.run(cancel));
    parts.start("control", |cancel| control.run(cancel));
    let simulated = simulated(&config, &services, channels).await?;
    let begun = simulated.as_ref().is_some_and(|simulated| simulated.history.days > 0);
    let (stage, past) = watch::channel(if begun { Stage::Begun } else { Stage::Whole });
    let publishing =
        start_services(&mut parts, &config, services.clone(), listen, past.clone()).await?;
    pulse.publishes(publishing);
    if let Some(Simulated { history, live }) = simulated {
        parts.start("simulator", |cancel| async move {
            let traffic = live::run(live, past, cancel.clone());
            if !begun {
                backfill::introduce(&services, history, services.now()).await?;
                return traffic.await;
            }
            let history = async {
                let made = backfill::run(&services, history, &stage, &cancel).await?;
                tracing::info!("{made}");
                anyhow::Ok(())
            };
            tokio::try_join!(history, traffic).map(|((), ())| ())
        });
    }
    say_where_to_look(&config, true);
    Ok(parts)
}

/// The services alone.
pub(crate) async fn operational(config: Config) -> anyhow::Result<Parts> {
    // Ingest, when it runs, is another process; it watches the databases itself.
    let services = open_services(&config, Arc::new(Notify::new())).await?;
    let listen = bind(config.operational.listen, "operational.listen").await?;
    let mut parts = Parts::default();
    let (_, past) = watch::channel(Stage::Whole);
    start_services(&mut parts, &config, services, listen, past).await?;
    say(&format!("services  http://{}/openapi.json", config.operational.listen));
    Ok(parts)
}

/// Ingest, lake and marts alone.
pub(crate) async fn pipeline(config: Config) -> anyhow::Result<Parts> {
    let (conductor, control) = conductor(&config, Wake::Polled(SOURCES_LOOKED_AT_EVERY)).await?;
    let mut parts = Parts::default();
    parts.start("pipeline", |cancel| conductor.run(cancel));
    parts.start("control", |cancel| control.run(cancel));
    say(&format!("lake      {}", config.data.join("lake/catalog.db").display()));
    Ok(parts)
}

/// The doors and the screen alone, over what is committed.
pub(crate) async fn serve(config: Config) -> anyhow::Result<Parts> {
    let http = bind(config.query.http, "query.http").await?;
    let postgres = bind(config.query.postgres, "query.postgres").await?;
    let mut follower = first_commit(&config).await?;
    let server = doors(&config, follower.watch())?;
    let mut parts = Parts::default();
    start_doors(&mut parts, server, http, postgres);
    parts.start("follower", |cancel| async move {
        // What was said last, so that a lasting reason is not said ten times a second.
        let mut said = None;
        while cancel
            .run_until_cancelled(tokio::time::sleep(CATALOG_LOOKED_AT_EVERY))
            .await
            .is_some()
        {
            let failed = follower.refresh().await.err().map(|error| error.to_string());
            if failed != said {
                match &failed {
                    Some(error) => tracing::warn!(error, "cannot follow the lake; trying again"),
                    None => tracing::info!("following the lake again"),
                }
                said = failed;
            }
        }
        Ok(())
    });
    say_where_to_look(&config, false);
    Ok(parts)
}

/// The lake, once a pipeline has made its tables; one that was started a moment ago is waited for.
async fn first_commit(config: &Config) -> anyhow::Result<Follower> {
    let settings = lake_settings(config);
    let model = model()?;
    let end = tokio::time::Instant::now() + PIPELINE_PATIENCE;
    loop {
        let tried = match Follower::open(&settings).await {
            Ok(follower) => check_model(config, &model, &follower.watch()).map(|()| follower),
            Err(error) => Err(error.into()),
        };
        match tried {
            Ok(follower) => return Ok(follower),
            Err(error) if tokio::time::Instant::now() > end => {
                return Err(error.context(format!(
                    "could not serve the lake in {} (has `medlake pipeline` run?)",
                    settings.root.display()
                )));
            }
            Err(_) => tokio::time::sleep(CATALOG_LOOKED_AT_EVERY).await,
        }
    }
}

/// A history of some days in the databases, traffic against services that run already, or both.
pub(crate) async fn simulate(
    config: &Config,
    backfill: Option<u32>,
    live: Option<Option<String>>,
) -> anyhow::Result<Parts> {
    let mut parts = Parts::default();
    let history = match backfill {
        Some(days) => {
            let services = open_services(config, Arc::new(Notify::new())).await?;
            let SimulateSettings { seed, people, .. } = config.simulate;
            Some((services, BackfillConfig { seed, people, days }))
        }
        None => None,
    };
    let live = live.map(|services| traffic(config, services));
    let (stage, past) = watch::channel(Stage::Begun);
    parts.start("simulator", |cancel| async move {
        if let Some((services, history)) = history {
            let made = backfill::run(&services, history, &stage, &cancel).await?;
            services.close().await;
            say(&made.to_string());
        }
        stage.send_replace(Stage::Whole);
        match live {
            Some(live) => live::run(live, past, cancel).await,
            None => Ok(()),
        }
    });
    Ok(parts)
}

/// Recorded data through the services' own functions, on the databases of the data folder.
pub(crate) async fn replay(
    config: &Config,
    dataset: Dataset,
    from: &Path,
    speed: Option<f64>,
) -> anyhow::Result<()> {
    let services = open_services(config, Arc::new(Notify::new())).await?;
    let replayed = match dataset {
        Dataset::Completejourney => {
            input::replay_completejourney::run(&services, from, speed).await?
        }
        Dataset::Adherer => input::replay_adherer::run(&services, from, speed).await?,
        Dataset::Devices => input::replay_devices::run(&services, from, speed).await?,
        Dataset::Synthea => input::replay_synthea::run(&services, from, speed).await?,
        Dataset::Uci => input::replay_uci::run(&services, from, speed).await?,
    };
    services.close().await;
    say(&replayed.to_string());
    Ok(())
}

async fn open_services(config: &Config, committed: Arc<Notify>) -> anyhow::Result<Services> {
    let (storage, place) = match &config.operational.server {
        Some(DatabaseServer { url, prefix }) => {
            let (url, prefix) = (url.reveal().to_owned(), prefix.clone());
            (Storage::Server { url, prefix }, "the databases of operational.url".to_owned())
        }
        None => {
            let folder = config.data.join("operational");
            (Storage::files(&folder), folder.display().to_string())
        }
    };
    let on_commit = Arc::new(move || committed.notify_one());
    let services = Services::open_without_keys(&storage, clock::machine(), on_commit)
        .await
        .with_context(|| format!("could not open the services in {place}"))?;
    services.use_key_file(&key_file(config)?).await?;
    services.use_mall_settings(mall::Settings {
        payment_channels: config.operational.payment_channels.clone(),
    });
    let operational = &config.operational;
    let issuer = operational.issuer.clone();
    services.use_options(Options {
        access: operational.access,
        issuer: issuer.unwrap_or_else(|| format!("http://{}", operational.listen)),
        private_webhooks: operational.private_webhooks,
        ..Options::default()
    });
    if let Some(files) = file_store(config) {
        services.use_file_store(&files)?;
    }
    Ok(services)
}

/// Where files are kept, if it is said; a bucket is reached as those of the lake are.
fn file_store(config: &Config) -> Option<FileStore> {
    let Some(place) = &config.operational.files else {
        let server = config.operational.server.is_some();
        return server.then(|| FileStore::Folder(config.data.join("files")));
    };
    if !place.starts_with("s3://") {
        return Some(FileStore::Folder(place.into()));
    }
    let S3Config { endpoint, region, credentials, path_style, allow_http } = config.lake.s3.clone();
    let shown = |secret: Secret| secret.reveal().to_owned();
    let access = match credentials {
        S3Credentials::Anonymous => BucketAccess::Anonymous,
        S3Credentials::Keys { access_key_id, secret_access_key, session_token } => {
            BucketAccess::Keys {
                access_key_id,
                secret_access_key: shown(secret_access_key),
                session_token: session_token.map(shown),
            }
        }
        // By the machine's own role, as when nothing is said.
        _ => BucketAccess::Machine,
    };
    let url = place.clone();
    Some(FileStore::Bucket { url, endpoint, region, access, path_style, allow_http })
}

/// What is done for identities by hand: the first administrator, and clients.
pub(crate) async fn identity(config: &Config, request: IdentityRequest) -> anyhow::Result<()> {
    let services = open_services(config, Arc::new(Notify::new())).await?;
    match request {
        IdentityRequest::CreateAdmin { login } => {
            let password = identity::create_administrator(&services, &login).await?;
            say(&format!("login               {login}"));
            say(&format!("one-time password   {password}"));
        }
        IdentityRequest::CreateClient { name, public, redirect_uri, permissions } => {
            let may = Permissions::parse(&permissions)?;
            let permissions = Permission::ALL.iter().copied().filter(|p| may.contains(*p));
            let new = NewClient {
                name,
                confidential: !public,
                redirect_uris: redirect_uri,
                permissions: permissions.collect(),
            };
            let (client, secret) = identity::create_client(&services, &new).await?;
            say(&format!("client_id       {}", client.client_key));
            if let Some(secret) = secret {
                say(&format!("client_secret   {secret}"));
            }
        }
    }
    services.close().await;
    Ok(())
}

/// Nobody can administer services that want tokens before somebody is told a password.
async fn greet_first_administrator(config: &Config, services: &Services) -> anyhow::Result<()> {
    if config.operational.access == Access::Open || identity::has_administrator(services).await? {
        return Ok(());
    }
    let password = identity::create_administrator(services, "admin").await?;
    say(&format!("sign in as \"admin\" with the one-time password {password}"));
    Ok(())
}

/// Beside the files of the services. On a server it must be said: a file that each machine made for itself
/// would open nothing of what the others write, and be lost with the machine.
fn key_file(config: &Config) -> anyhow::Result<PathBuf> {
    match (&config.operational.key_file, &config.operational.server) {
        (Some(file), _) => Ok(file.clone()),
        (None, None) => Ok(config.data.join("operational/master.keys")),
        (None, Some(_)) => anyhow::bail!(
            "operational.key_file is not set, and must be with operational.url: the file of master keys that \
             names and secrets are encrypted under, the same one on each machine that runs the services. \
             Set it to a path outside of the data folder (the first start makes the file), and keep a copy"
        ),
    }
}

/// The HTTP door of the services stops first; what it committed last is still delivered between
/// them before their databases are closed. What is due by the clock is done when the `past` is whole:
/// until then it is the past's to do.
async fn start_services(
    parts: &mut Parts,
    config: &Config,
    services: Services,
    listen: TcpListener,
    mut past: watch::Receiver<Stage>,
) -> anyhow::Result<Publishing> {
    let publishing = publishing::start(parts, config, &services).await?;
    let shown = publishing.clone();
    services.show_measured(Box::new(move |text| shown.prometheus(text)));
    greet_first_administrator(config, &services).await?;
    let router = services.router();
    parts.start("outbox", |cancel| async move {
        let timers = async {
            let whole = past.wait_for(|stage| *stage == Stage::Whole);
            if matches!(cancel.run_until_cancelled(whole).await, Some(Ok(_))) {
                services.run_timers(cancel.clone().cancelled_owned()).await;
            }
        };
        tokio::join!(services.run_dispatcher(cancel.clone().cancelled_owned()), timers);
        services.close().await;
        Ok(())
    });
    parts.start("services", |cancel| answer(listen, router, cancel));
    Ok(publishing)
}

fn start_doors(parts: &mut Parts, server: QueryServer, http: TcpListener, postgres: TcpListener) {
    let router = server.router().fallback_service(screen::router());
    parts.start("http", |cancel| answer(http, router, cancel));
    parts.start("postgres", |cancel| async move {
        server.serve_postgres(postgres, cancel).await.context("the Postgres door failed")
    });
}

pub(crate) fn lake_settings(config: &Config) -> LakeConfig {
    LakeConfig {
        catalog: config.lake.catalog.clone(),
        warehouse: config.lake.warehouse.clone(),
        s3: config.lake.s3.clone(),
        catalog_name: CATALOG.to_owned(),
        flush_rows: config.lake.flush_rows,
        flush_bytes: config.ingest.flush_bytes(),
        keep_snapshots_micros: i64::from(config.lake.keep_minutes) * 60_000_000,
        ..LakeConfig::new(config.data.join("lake"), clock::machine())
    }
}

/// Opens the sources and the lake, and brings the marts up to date.
async fn conductor(config: &Config, wake: Wake) -> anyhow::Result<(Conductor, Control)> {
    let settings = lake_settings(config);
    let flush_bytes = settings.flush_bytes;
    let lake = Lake::open(settings.clone())
        .await
        .with_context(|| format!("could not open the lake in {}", settings.root.display()))?;
    let lake = Arc::new(lake);
    let budget = Budget::new(config.ingest.read_ahead_bytes());
    let ingest = sources::open(config, &lake, &wake, &budget).await?;
    let pulse = Pulse::new(
        Arc::clone(&lake),
        ingest.monitor(),
        budget,
        (config.ingest.memory_mib as u64) << 20,
        clock::machine(),
    );
    let transforms = Transforms::load().context("the models cannot be used")?;
    let pace = Pace {
        limits: CutLimits {
            max_rows: config.ingest.cut_rows,
            max_bytes: config.ingest.cut_bytes.min(config.ingest.read_ahead_bytes()),
        },
        flush_interval: config.lake.flush_interval,
        flush_rows: config.lake.flush_rows,
        flush_bytes,
    };
    // The lake's folder is ours from here on, and so is the socket.
    let (control, requests) = Control::open(&config.data)?;
    let pulse = Arc::new(pulse);
    let mut conductor = Conductor::new(ingest, lake, transforms, pace, pulse, requests);
    conductor.prepare().await?;
    Ok((conductor, control))
}

fn doors(
    config: &Config,
    views: tokio::sync::watch::Receiver<Arc<medlake_lake::ReadView>>,
) -> anyhow::Result<QueryServer> {
    let settings = QueryServerConfig {
        memory_limit_bytes: config.query.memory_mib << 20,
        statement_timeout: config.query.timeout,
        ..QueryServerConfig::default()
    };
    let model = model()?;
    if let Err(error) = check_model(config, &model, &views) {
        // After a migration tables are as they were where reading ended, until it goes on.
        tracing::warn!(error = format!("{error:#}"), "not all metrics can be asked for yet");
    }
    let dashboards = screen::definitions()
        .map(|(name, yaml)| {
            Dashboard::from_yaml(&yaml).with_context(|| format!("dashboard {name} cannot be used"))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    QueryServer::new(settings, views, model, dashboards, clock::machine())
        .context("could not open the doors")
}

fn model() -> anyhow::Result<Model> {
    Model::embedded().map_err(|problems| listed("the semantic model", &problems))
}

/// Whether the tables have what the model says of them.
///
/// A service whose tables are not read from its file in the data folder may have none: its source is
/// turned off, or has not said yet what they are. What is asked of them is answered as an error until then.
fn check_model(
    config: &Config,
    model: &Model,
    views: &tokio::sync::watch::Receiver<Arc<medlake_lake::ReadView>>,
) -> anyhow::Result<()> {
    let tables: Vec<_> = views.borrow().tables().iter().map(|t| (*t.schema).clone()).collect();
    let elsewhere = |table: &str| {
        let service = table.split('.').next().unwrap_or_default();
        SERVICES.contains(&service)
            && !matches!(config.sources.get(service), Some(SourceConfig::Embedded))
    };
    let problems = model.check_tables(&tables, elsewhere);
    anyhow::ensure!(problems.is_empty(), listed("the semantic model", &problems));
    Ok(())
}

/// What `up` simulates.
struct Simulated {
    history: BackfillConfig,
    live: LiveConfig,
}

/// Secrets of payment channels that tell of simulated payments, beside those that are set.
fn simulated_channels(config: &mut Config) -> anyhow::Result<BTreeMap<String, String>> {
    let mut channels = BTreeMap::new();
    if config.simulate.enabled {
        for channel in live::payment_channels() {
            let secret = config.operational.payment_channels.add(channel)?;
            channels.extend(secret.map(|secret| (channel.to_owned(), secret)));
        }
    }
    Ok(channels)
}

/// The people of the history there is go on, whatever the settings say of others.
async fn simulated(
    config: &Config,
    services: &Services,
    channels: BTreeMap<String, String>,
) -> anyhow::Result<Option<Simulated>> {
    if !config.simulate.enabled {
        return Ok(None);
    }
    let SimulateSettings { seed, people, history_days, .. } = config.simulate;
    let wanted = BackfillConfig { seed, people, days: history_days };
    let history = backfill::of(services).await?.unwrap_or(wanted);
    let mut live = LiveConfig {
        seed: history.seed,
        people: history.people,
        channels,
        ..traffic(config, None)
    };
    if config.operational.access == Access::Tokens && live.access.is_none() {
        live.access = Some(own_client(services).await?);
    }
    Ok(Some(Simulated { history, live }))
}

/// The client that `up` is when it simulates: those who order, are cared for and recommend, and the staff
/// who serve them. Its secret is another at each start.
async fn own_client(services: &Services) -> anyhow::Result<ClientCredentials> {
    use Permission::{
        CareRead, CareWrite, DistributionRead, DistributionWrite, MallRead, MallWrite,
    };
    let new = NewClient {
        name: "medlake simulate".to_owned(),
        confidential: true,
        redirect_uris: Vec::new(),
        permissions: vec![
            MallRead,
            MallWrite,
            DistributionRead,
            DistributionWrite,
            CareRead,
            CareWrite,
        ],
    };
    let (client, secret) = identity::client_of_this_process(services, &new).await?;
    Ok(ClientCredentials { client_id: client.client_key, client_secret: Secret::new(secret) })
}

fn traffic(config: &Config, services: Option<String>) -> LiveConfig {
    LiveConfig {
        services: services.unwrap_or_else(|| format!("http://{}", config.operational.listen)),
        orders_per_second: config.simulate.orders_per_second,
        seed: config.simulate.seed,
        people: config.simulate.people,
        access: config.simulate.client.clone(),
        channels: BTreeMap::new(),
    }
}

async fn bind(address: std::net::SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("could not listen on {address}; set {key} to a free address"))
}

/// Answers HTTP requests until cancelled.
async fn answer(
    listen: TcpListener,
    router: axum::Router,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let stopped = cancel.clone().cancelled_owned();
    let served = axum::serve(listen, router).with_graceful_shutdown(stopped).into_future();
    tokio::select! {
        served = served => served.context("the HTTP door failed"),
        // A screen's event stream never ends by itself.
        () = async { cancel.cancelled().await; tokio::time::sleep(LAST_ANSWERS).await } => Ok(()),
    }
}

fn listed<P: std::fmt::Display>(what: &str, problems: &[P]) -> anyhow::Error {
    let lines: String = problems.iter().map(|p| format!("\n  {p}")).collect();
    anyhow::anyhow!("{what} cannot be used:{lines}")
}

fn say_where_to_look(config: &Config, services: bool) {
    let (http, postgres) = (config.query.http, config.query.postgres);
    say(&format!("screen    http://{http}/"));
    say(&format!("API       http://{http}/openapi.json"));
    say(&format!("SQL       psql -h {} -p {} medlake", postgres.ip(), postgres.port()));
    if services {
        say(&format!("services  http://{}/openapi.json", config.operational.listen));
    }
    say(&format!("lake      {}", config.data.join("lake/catalog.db").display()));
}

/// Says something to the person at the terminal, who may have gone (`| head`): no reason to stop.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
