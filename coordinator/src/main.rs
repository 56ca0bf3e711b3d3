//! `bramble-coordinator`: puts the parts together, and takes them apart in order.
//!
//! Decides: the order of start and end. Deliberately does not: anything else.

use std::{net::SocketAddr, path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use bramble_coordinator::{
    background::{self, Core, Times, renew},
    broker::{self, Broker},
    clock,
    config::{Cli, Command, LogFormat, Place, Serve},
    http::{
        self, App,
        auth::{ADMIN_FILE, Auth},
        serve::Protection,
    },
    keys::{Keys, ca, files},
    mesh::{Endpoint, Mesh},
    store::{JetStream, Replicas},
};
use clap::Parser as _;
use tokio::{net::TcpListener, sync::watch};
use tracing_subscriber::EnvFilter;

/// How long an existing NATS server may take to answer at our start.
const EXTERNAL_PATIENCE: Duration = Duration::from_secs(120);
const EXTERNAL_PAUSE: Duration = Duration::from_secs(1);
/// How long mutations under way may take when we are asked to stop.
const SETTLE_MAX: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let cli = Cli::parse();
    log(cli.log_format);
    let done = match cli.command {
        Command::Version => {
            println!("bramble-coordinator {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Command::NatsConfig(place) => nats_config(&place),
        Command::Serve(serve) => run(*serve),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            tracing::error!("{err:#}");
            ExitCode::FAILURE
        }
    }
}

fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,async_nats=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let colour = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
            builder.with_ansi(colour).init();
        }
        LogFormat::Json => builder.json().init(),
    }
}

fn hostname() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if text.trim().is_empty() { "localhost".to_owned() } else { text.trim().to_owned() }
}

fn keys(place: &Place) -> anyhow::Result<Arc<Keys>> {
    files::private_dir(&place.state)?;
    let ca = broker_ca(place)?;
    let addresses = place.addresses(&hostname());
    let keys = Keys::load_or_create_with(&place.state.join("keys"), &addresses, ca.as_deref());
    Ok(Arc::new(keys.context("cannot use the fleet's keys")?))
}

/// The CA of an existing NATS server, where it is not ours.
fn broker_ca(place: &Place) -> anyhow::Result<Option<String>> {
    let read = |path| String::from_utf8(files::read(path)?).context("the file of --nats-ca is not PEM");
    place.nats_ca.as_deref().map(read).transpose()
}

fn nats_config(place: &Place) -> anyhow::Result<()> {
    print!("{}", broker::external_text(&*keys(place)?, clock::unix_secs()));
    Ok(())
}

fn run(serve: Serve) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(coordinate(serve))
}

async fn coordinate(serve: Serve) -> anyhow::Result<()> {
    let mut stop = signals()?;
    let place = &serve.place;
    let keys = keys(place)?;
    let auth = Auth::load(&place.state).context("cannot use the API's tokens")?;
    let protection = protection(place, &keys)?;
    let listener =
        TcpListener::bind(place.listen).await.with_context(|| format!("cannot listen on {}", place.listen))?;
    let started = tokio::select! {
        started = connect(&serve, &keys) => started?,
        _ = stop.wait_for(|stopped| *stopped) => return Ok(()),
    };
    let (broker, mesh, store) = started;
    let times =
        Times { heartbeat_timeout: serve.heartbeat_timeout.duration(), device_jwt: serve.device_jwt_ttl.duration() };
    let core = Core::new(Arc::new(store), Arc::clone(&keys), Arc::new(mesh.clone()), times);
    let answering = mesh.answer_devices(renew::answerer(&core)).await;
    let background = tokio::spawn(background::run(Arc::clone(&core), mesh.device_links()));
    announce(place);
    let app = App::new(core, auth, place.state.clone(), stop.clone());
    let settled = app.settled();
    let router = http::router(app);
    let mut stopped = stop.clone();
    let serving = http::serve::serve(listener, router, protection, async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    });
    let ended = async {
        tokio::select! {
            () = serving => Ok(()),
            () = fails(background) => Err(anyhow::anyhow!("a part of the background has ended: this is a defect; start again")),
        }
    };
    let result = ended.await;
    tracing::info!("stopping");
    if tokio::time::timeout(SETTLE_MAX, settled).await.is_err() {
        tracing::warn!("a mutation was still under way: the audit trail may lack its outcome");
    }
    answering.abort();
    if let Some(broker) = broker {
        broker.shutdown().await;
    }
    result
}

async fn fails(background: tokio::task::JoinHandle<()>) {
    if let Err(err) = background.await {
        tracing::error!(error = %err, "the background has failed");
    }
}

/// Turns true at SIGTERM or SIGINT.
fn signals() -> anyhow::Result<watch::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let (tell, stop) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tell.send_replace(true);
        // Kept, so that listeners see the value rather than an end.
        tell.closed().await;
    });
    Ok(stop)
}

fn protection(place: &Place, keys: &Arc<Keys>) -> anyhow::Result<Protection> {
    if place.listen.ip().is_loopback() {
        return Ok(Protection::Plain);
    }
    let certs =
        ca::renewing(Arc::clone(keys), names(place, place.listen)).context("cannot issue the API's certificate")?;
    Ok(Protection::tls(certs)?)
}

/// Whom a certificate is for: whoever is told to others, and the address itself, by which we reach the broker too.
fn names(place: &Place, listen: SocketAddr) -> Vec<String> {
    let mut names = place.hosts(listen, &hostname());
    if !listen.ip().is_unspecified() {
        names.push(listen.ip().to_string());
    }
    names
}

async fn connect(serve: &Serve, keys: &Arc<Keys>) -> anyhow::Result<(Option<Broker>, Mesh, JetStream)> {
    let place = &serve.place;
    let ca = match broker_ca(place)? {
        Some(theirs) => Some(theirs),
        None => place.nats_url.iter().any(|u| u.starts_with("tls://")).then(|| keys.ca().pem().to_owned()),
    };
    if let Some(endpoint) = place.external(ca) {
        let mesh = external(keys, &endpoint).await?;
        let store = JetStream::open(mesh.fleet(), serve.nats_replicas).await.context("cannot use the store")?;
        return Ok((None, mesh, store));
    }
    let options = broker::Options {
        program: program(&serve.nats_server)?,
        dir: place.state.join("broker"),
        listen: place.broker_listen,
        names: names(place, place.broker_listen),
    };
    let broker = Broker::start(Arc::clone(keys), options).await.context("cannot start the embedded broker")?;
    let mesh = Mesh::connect(Arc::clone(keys), broker.endpoint(), Some(broker.config_file())).await?;
    let store = JetStream::open(mesh.fleet(), Replicas::One).await.context("cannot use the store")?;
    Ok((Some(broker), mesh, store))
}

/// An existing server may be on its way up, too.
async fn external(keys: &Arc<Keys>, endpoint: &Endpoint) -> anyhow::Result<Mesh> {
    let trying = async {
        loop {
            match Mesh::connect(Arc::clone(keys), endpoint, None).await {
                Ok(mesh) => return mesh,
                Err(err) => tracing::warn!(error = %err, "the NATS server does not answer yet"),
            }
            tokio::time::sleep(EXTERNAL_PAUSE).await;
        }
    };
    let urls = endpoint.urls.join(",");
    tokio::time::timeout(EXTERNAL_PATIENCE, trying)
        .await
        .with_context(|| format!("the NATS server at {urls} does not answer"))
}

/// A program by its path, or by its name in `PATH`.
fn program(named: &Path) -> anyhow::Result<std::path::PathBuf> {
    if named.components().count() > 1 {
        return Ok(named.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(named)).find(|p| p.is_file());
    found.with_context(|| {
        format!("{} is not in PATH: give --nats-server, or --nats-url for an existing one", named.display())
    })
}

fn announce(place: &Place) {
    let addresses = place.addresses(&hostname());
    let token = place.state.join(ADMIN_FILE);
    tracing::info!(
        api = addresses.coordinators.join(","),
        broker = addresses.brokers.join(","),
        admin_token = %token.display(),
        "serving"
    );
}
