//! A process from its arguments to its exit code.
//!
//! Knows the order of start and end: lock the data dir, listen, replay, get ready; on SIGTERM stop being
//! ready, finish open requests, stop the node. Exit code 0 after a signal, 1 when something failed.

use crate::admin;
use crate::cli::{self, Action};
use crate::config::load::Source;
use crate::config::reload::Reloader;
use crate::config::{Config, HumanDuration, Multitenancy, keys};
use crate::datadir::DataDir;
use crate::http::{App, AppParts, listener, router};
use crate::node::Node;
use crate::node::company::Company;
use crate::node::troubles::Troubles;
use crate::{recover, self_monitor, telemetry};
use quorate_cluster::limits::LimitsProvider;
use quorate_model::{Clock, SystemClock, failpoint};
use quorate_wire::grpc;
use std::fmt::Display;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Why the process ends with code 1, for standard error.
type Failure = String;

/// How long tasks and threads may take to end once the node has stopped. A query looks at its flag within a second.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Runs the process.
pub fn main() -> ExitCode {
    let action = match cli::parse(std::env::args_os(), |name| std::env::var(name).ok()) {
        Ok(action) => action,
        Err(usage) => {
            // Also how --help and --version end; a closed standard output changes nothing about the code.
            drop(usage.print());
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(1));
        }
    };
    let done = match action {
        Action::PrintDefaults => keys::defaults_as_yaml().map_err(text).and_then(|yaml| print(&yaml)),
        Action::CheckConfig(source) => {
            source.load().map_err(text).and_then(|_| print("the configuration is good\n"))
        }
        Action::Recover(source, given) => recover_survivor(&source, given.as_deref()),
        Action::Serve(source) => start(source),
        Action::Cluster(order) => admin::run(&order),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            drop(writeln!(std::io::stderr(), "quorate: {failure}"));
            ExitCode::FAILURE
        }
    }
}

fn text(error: impl Display) -> Failure {
    error.to_string()
}

fn print(what: &str) -> Result<(), Failure> {
    std::io::stdout().write_all(what.as_bytes()).map_err(text)
}

fn recover_survivor(source: &Source, given: Option<&str>) -> Result<(), Failure> {
    failpoint::check_environment().map_err(text)?;
    let config = source.load().map_err(text)?;
    recover::run(&config, given, &mut std::io::stdin().lock(), &mut std::io::stdout()).map_err(text)
}

fn start(source: Source) -> Result<(), Failure> {
    let fail_point = failpoint::check_environment().map_err(text)?;
    let config = Arc::new(source.load().map_err(text)?);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    telemetry::log::install(config.log_format, &config.log_level, clock.clone())?;
    if let Some(name) = fail_point {
        tracing::warn!(name, "a fail point is armed: the process will abort there");
    }
    for variable in cli::unknown_variables(std::env::vars_os().map(|(name, _)| name)) {
        tracing::warn!(variable, "no setting has this variable; it is ignored");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(text)?;
    let done = runtime.block_on(serve(source, config, clock));
    // Queries that are still running see their cancel flag. Whatever task or query holds the store last closes it,
    // and that must be over before the process ends: exit handlers take away what RocksDB's threads use.
    runtime.shutdown_timeout(LAST_WAIT);
    done
}

/// Both listeners, and the addresses they got: HTTP, then gRPC.
struct Listeners {
    http: TcpListener,
    grpc: TcpListener,
    addresses: (SocketAddr, SocketAddr),
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, Failure> {
        let bind = async |key: &str, address: SocketAddr| {
            let listener = TcpListener::bind(address).await.map_err(|e| format!("{key} {address}: {e}"))?;
            let address = listener.local_addr().map_err(text)?;
            Ok::<_, Failure>((listener, address))
        };
        let (http, http_address) = bind("http_listen", config.http_listen).await?;
        let (grpc, grpc_address) = bind("grpc_listen", config.grpc_listen).await?;
        Ok(Self { http, grpc, addresses: (http_address, grpc_address) })
    }

    /// Answers on both until `stop`, then until open requests have their answers.
    fn serve(
        self,
        app: &Arc<App>,
        config: &Arc<Config>,
        (inbox, tls): (grpc::Inbox, Option<grpc::Tls>),
        stop: &CancellationToken,
    ) -> JoinHandle<std::io::Result<()>> {
        let drain = config.http.drain_timeout.into();
        let grpc = grpc::serve(self.grpc, inbox, tls, app.readiness(), drain, stop.clone());
        let (router, config, stop) = (router(app.clone()), config.clone(), stop.clone());
        let http =
            async move { listener::serve(self.http, router, &config.http, stop.cancelled_owned()).await };
        tokio::spawn(async move { tokio::try_join!(http, grpc).map(drop) })
    }
}

async fn serve(source: Source, config: Arc<Config>, clock: Arc<dyn Clock>) -> Result<(), Failure> {
    let dir = DataDir::lock(&config.data_dir).map_err(text)?;
    dir.check_whole().map_err(text)?;
    dir.hold_until_exit();
    // Before anything can be reached from outside: whoever sees the node start may send it a signal.
    let mut signals = Signals::new().map_err(text)?;
    let tls = config.grpc_tls().map(|(files, mode)| grpc::Tls::load(files, mode, &config.node_id));
    let tls = tls.transpose().map_err(text)?;
    let listeners = Listeners::bind(&config).await?;
    let limits = Arc::new(LimitsProvider::new(config.limits.clone(), config.overrides.clone()));
    let recorder = telemetry::metrics::install()?;
    tokio::spawn(telemetry::metrics::keep_small(recorder.clone()));
    let troubles = Arc::<Troubles>::default();
    let app = App::new(AppParts {
        reloader: Arc::new(Reloader::new(source, config.clone(), limits.clone(), tls.clone(), clock.clone())),
        limits: limits.clone(),
        features: config.features()?,
        recorder,
        clock: clock.clone(),
        troubles: troubles.clone(),
    });
    let stop = CancellationToken::new();
    let addresses = listeners.addresses;
    let company = Company::of(&config, &dir, addresses.1, tls.as_ref());
    let inbox = company.as_ref().map(Company::inbox).unwrap_or_default();
    let serving = listeners.serve(&app, &config, (inbox, tls), &stop);
    let node = tokio::select! {
        node = Node::start(&config, dir, company.as_ref(), limits, clock, troubles) => Some(node.map_err(text)?),
        () = signals.end.received() => None,
    };
    let ended = match &node {
        Some(node) => until_end(&app, &config, node, addresses, &mut signals).await,
        None => Ok(()),
    };
    if let (Some(node), Ok(())) = (&node, &ended) {
        node.hand_over().await;
    }
    app.set_draining();
    stop.cancel();
    serving.await.map_err(text)?.map_err(text)?;
    if let Some(node) = node {
        node.stop().await;
    }
    tracing::info!("stopped");
    ended
}

/// Runs a ready node until a signal ends it or a partition fails.
async fn until_end(
    app: &Arc<App>,
    config: &Config,
    node: &Node,
    (http, grpc): (SocketAddr, SocketAddr),
    signals: &mut Signals,
) -> Result<(), Failure> {
    app.set_ready(node.services().clone());
    tracing::info!(%http, %grpc, data_dir = %config.data_dir.display(), "ready");
    if let Err(error) = print(&welcome(http, config)) {
        tracing::warn!(%error, "the greeting could not be written");
    }
    let own_metrics = async {
        match config.self_monitor {
            true => {
                let tenant = Arc::from(config.self_monitor_tenant.as_str());
                let interval = config.self_monitor_interval.into();
                self_monitor::run(app.clone(), tenant, http.to_string(), interval).await;
            }
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        () = signals.end.received() => Ok(()),
        () = follow_configuration(app, config.reload_interval, &mut signals.hangup) => Ok(()),
        () = own_metrics => Ok(()),
        failure = node.failed() => Err(failure),
    }
}

/// Reads the configuration again on SIGHUP and when the file has changed. Never ends.
async fn follow_configuration(app: &App, interval: HumanDuration, hangup: &mut Signal) {
    let period = if interval.is_zero() { HumanDuration::from_secs(86_400) } else { interval };
    let mut turns = tokio::time::interval(period.into());
    loop {
        // The reloader logs and remembers how it went.
        tokio::select! {
            _ = hangup.recv() => drop(app.reloader.reload()),
            _ = turns.tick(), if !interval.is_zero() => drop(app.reloader.poll()),
        }
    }
}

/// What a person reads who has just started the node.
fn welcome(http: SocketAddr, config: &Config) -> String {
    let tenant = match config.multitenancy {
        Multitenancy::Required => format!(" -H 'X-Scope-OrgID: {}'", config.self_monitor_tenant),
        Multitenancy::Off | Multitenancy::Optional => String::new(),
    };
    let query = |promql: &str| format!("  curl{tenant} http://{http}/api/v1/query -d 'query={promql}'\n");
    format!(
        "\nQuorate {} is ready.\n\n\
         Remote write:        http://{http}/api/v1/write\n\
         Grafana data source: http://{http}\n\
         Own metrics:         http://{http}/metrics\n\n\
         Queries to try:\n{}{}{}\n",
        crate::VERSION,
        query("up"),
        query("prometheus_tsdb_head_series"),
        query("rate(process_cpu_seconds_total[1m])"),
    )
}

/// The signals that the process takes. From here on SIGHUP no longer ends it.
struct Signals {
    end: EndSignals,
    hangup: Signal,
}

/// The signals that end the process.
struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let end = EndSignals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        Ok(Self { end, hangup: signal(SignalKind::hangup())? })
    }
}

impl EndSignals {
    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("SIGTERM: draining"),
            _ = self.interrupt.recv() => tracing::info!("SIGINT: draining"),
        }
    }
}
