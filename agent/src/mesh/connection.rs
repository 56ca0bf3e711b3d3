//! The connection to the broker: one at a time, replaced make-before-break, tried again for ever with jitter.
//!
//! Decides when to connect, renew and replace. Does not decide what messages mean: they go to their actors as they are.
//! async-nats reconnects a broken connection itself and asks for the newest JWT each time. A connection whose certificate
//! was believed while the clock was not fit is made anew, with dates, once it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{Auth, Client, ConnectErrorKind, ConnectOptions, Event, Message, ServerAddr, ServerError};
use bramble_contracts::subjects;
use bramble_contracts::trust::TrustDocument;
use futures::StreamExt as _;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::board::{Alarm, View};
use super::context::{Context, Stop};
use super::identity::{Span, renewal_wait};
use super::tls::Dates;
use super::{http, random, renew, tls};
use crate::core::clock;

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// While the broker refuses our JWT: it may be quarantine, which can be lifted at any moment.
const REFUSED_MAX: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const RENEW_RETRY_FIRST: Duration = Duration::from_secs(2);
const RENEW_RETRY_MAX: Duration = Duration::from_secs(60);
/// How long both connections live at a hand-over, so that nothing under way is lost.
const OVERLAP: Duration = Duration::from_secs(2);
/// Spread, because a restarted broker brings everybody back at once.
const TRUST_FIRST: Duration = Duration::from_secs(120);
const TRUST_PERIOD: Duration = Duration::from_secs(6 * 3600);
/// After a question that nobody answered: a coordinator that starts has nobody listening for a moment.
const TRUST_RETRY: Duration = Duration::from_secs(300);
/// After a try to make a connection anew for its dates that came to nothing.
const RECHECK_RETRY: Duration = Duration::from_secs(60);
const NEVER: Duration = Duration::from_secs(86_400);

/// The connection as the other parts see it.
#[derive(Clone, Default)]
pub(crate) struct Link {
    /// The client to publish with; it queues a little while it reconnects.
    pub(crate) client: Option<Client>,
    /// Does the broker answer?
    pub(crate) connected: bool,
    /// Counts every time a connection came up: what was missed meanwhile must be asked for.
    pub(crate) epoch: u64,
}

/// Where messages go. Pushes go to whoever listens: an agent that does not act reads the document once it does.
#[derive(Clone)]
pub(crate) struct Inbound {
    pub(crate) pushes: broadcast::Sender<Message>,
    pub(crate) commands: mpsc::Sender<(Client, Message)>,
}

/// Addresses the broker may be dialled at: without TLS only this very machine.
pub(crate) fn broker_addresses(trust: &TrustDocument) -> Vec<ServerAddr> {
    let parse = |text: &String| -> Option<ServerAddr> {
        let address: ServerAddr = text.parse().ok()?;
        (address.tls_required() || http::is_loopback(address.host())).then_some(address)
    };
    trust.brokers.iter().filter_map(parse).collect()
}

/// One connection and the task that carries its messages on.
pub(super) struct Session {
    client: Client,
    events: mpsc::Receiver<Event>,
    pump: JoinHandle<()>,
    /// Of its certificate, as of its last handshake.
    dates: Dates,
}

impl Session {
    pub(super) fn client(&self) -> &Client {
        &self.client
    }
}

/// Why no connection came up.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("the broker does not accept this device's JWT")]
    Refused,
    #[error("the broker's certificate is not believed ({0})")]
    Certificate(String),
    #[error("no broker answers ({0})")]
    Other(String),
}

pub(crate) struct Connector {
    context: Arc<Context>,
    link: watch::Sender<Link>,
    inbound: Inbound,
    refused: Arc<AtomicBool>,
    /// When to ask for a new JWT over the mesh.
    renew_at: Instant,
    renew_failures: u32,
    /// When to ask whether the trust document has a successor.
    trust_at: Instant,
    /// When to ask for a new JWT over HTTP, while the broker refuses us.
    mend_at: Option<Instant>,
    mend_failures: u32,
    /// Not before this is a connection made anew for its dates.
    recheck_at: Instant,
}

impl Connector {
    pub(crate) fn new(context: Arc<Context>, link: watch::Sender<Link>, inbound: Inbound) -> Self {
        let refused = Arc::new(AtomicBool::new(false));
        let mut new = Self {
            context,
            link,
            inbound,
            refused,
            renew_at: later(NEVER),
            renew_failures: 0,
            trust_at: later(NEVER),
            mend_at: None,
            mend_failures: 0,
            recheck_at: now(),
        };
        new.plan_renewal();
        new
    }

    /// Works until `stop` says so.
    pub(crate) async fn run(mut self, mut stop: Stop) {
        let session = tokio::select! {
            session = self.first() => session,
            () = stop.asked() => return,
        };
        let mut session = session;
        let mut trusted = self.context.trust.changes();
        let mut clock = self.context.board.changes();
        loop {
            tokio::select! {
                () = stop.asked() => break,
                event = session.events.recv() => match event {
                    Some(event) => self.heard(event),
                    None => session = self.first().await,
                },
                () = tokio::time::sleep_until(self.renew_at) => self.renew(&mut session).await,
                () = until(self.mend_at) => self.mend().await,
                () = tokio::time::sleep_until(self.trust_at) => self.ask_trust(&session.client).await,
                Ok(()) = trusted.changed() => {
                    // One that cannot be replaced now is kept.
                    self.replace(&mut session, "the trust document changed").await.ok();
                }
                () = dates_due(&mut clock, session.dates.clone(), self.recheck_at) => session = self.recheck(session).await,
            }
        }
        self.link.send_replace(Link::default());
        close(session).await;
    }

    /// The first connection, however long it takes.
    async fn first(&mut self) -> Session {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.open().await {
                Ok(session) => {
                    self.came_up(&session);
                    return session;
                }
                Err(Failed::Refused) => {
                    self.refused();
                    if self.mend_at.is_some_and(|at| at <= now()) {
                        self.mend().await;
                    }
                }
                Err(failed @ (Failed::Certificate(_) | Failed::Other(_))) => self.say(failed.to_string()),
            }
            tokio::time::sleep(self.pause(attempt)).await;
        }
    }

    fn pause(&self, attempt: u32) -> Duration {
        let max = if self.refused.load(Ordering::Relaxed) { REFUSED_MAX } else { RETRY_MAX };
        random::backoff(RETRY_FIRST, max, attempt)
    }

    /// One try at a connection, subscribed when it returns.
    pub(super) async fn open(&self) -> Result<Session, Failed> {
        let other = |err: &dyn std::fmt::Display| Failed::Other(err.to_string());
        let trust = self.context.trust.now();
        let addresses = broker_addresses(&trust);
        if addresses.is_empty() {
            let why = "the trust document names no broker that can be used: tls:// or loopback nats:// addresses";
            self.context.board.alarm(Alarm::Trust, why);
            return Err(Failed::Other(why.into()));
        }
        let (events_tx, events) = mpsc::channel(64);
        let (mut options, dates) = (self.options(events_tx), Dates::default());
        if addresses.iter().any(ServerAddr::tls_required) {
            let config = tls::pinned(&trust.ca_bundle, &self.context.board, &dates).map_err(|err| other(&err))?;
            options = options.tls_client_config(config);
        }
        let client = options.connect(addresses).await.map_err(|err| match err.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => Failed::Refused,
            _ if tls::is_about_certificate(&err) => Failed::Certificate(err.to_string()),
            ConnectErrorKind::ServerParse
            | ConnectErrorKind::Dns
            | ConnectErrorKind::TimedOut
            | ConnectErrorKind::Tls
            | ConnectErrorKind::Io
            | ConnectErrorKind::MaxReconnects => other(&err),
        })?;
        let device = &self.context.device;
        let pushes = client.subscribe(subjects::device_push_all(device)).await.map_err(|err| other(&err))?;
        let commands = client.subscribe(subjects::command_all(device)).await.map_err(|err| other(&err))?;
        client.flush().await.map_err(|err| other(&err))?;
        let pump = tokio::spawn(pump(client.clone(), pushes, commands, self.inbound.clone(), self.context.clone()));
        Ok(Session { client, events, pump, dates })
    }

    fn options(&self, events: mpsc::Sender<Event>) -> ConnectOptions {
        let context = self.context.clone();
        let signer = move |nonce: Vec<u8>| {
            let (jwt, _) = context.jwt();
            let mut auth = Auth::new();
            auth.jwt = Some(jwt);
            auth.signature = Some(context.key.sign(&nonce));
            async move { Ok(auth) }
        };
        let refused = self.refused.clone();
        ConnectOptions::with_auth_callback(signer)
            .name(format!("{} {}", self.context.device, self.context.settings.instance.name()))
            .custom_inbox_prefix(subjects::inbox_prefix(&self.context.device))
            .connection_timeout(CONNECT_TIMEOUT)
            .request_timeout(Some(Duration::from_secs(10)))
            .ping_interval(Duration::from_secs(20))
            .subscription_capacity(256)
            .client_capacity(64)
            .ignore_discovered_servers()
            .reconnect_delay_callback(move |attempt| {
                let max = if refused.load(Ordering::Relaxed) { REFUSED_MAX } else { RETRY_MAX };
                if attempt <= 1 {
                    random::jittered(Duration::from_millis(50))
                } else {
                    random::backoff(RETRY_FIRST, max, u32::try_from(attempt).unwrap_or(u32::MAX))
                }
            })
            .event_callback(move |event| {
                let events = events.clone();
                async move {
                    // A closed channel means that nobody cares for this connection any more.
                    let _ = events.send(event).await;
                }
            })
    }

    fn heard(&mut self, event: Event) {
        match event {
            // The first one of a connection was taken note of when it came up; later ones follow a break.
            Event::Connected if self.link.borrow().connected => {}
            Event::Connected => self.link_up(),
            Event::Disconnected | Event::Closed => {
                self.link.send_modify(|link| link.connected = false);
                self.say("the connection to the broker broke, it is tried again".into());
            }
            Event::ServerError(ServerError::AuthorizationViolation) => self.refused(),
            Event::ServerError(ServerError::Other(text)) => self.server_said(&text),
            Event::ClientError(err) => {
                let text = err.to_string();
                if text.contains("authorization") || text.contains("authentication") {
                    self.refused();
                } else {
                    tracing::debug!(%text, "broker connection");
                }
            }
            Event::SlowConsumer(_) | Event::ServerError(ServerError::SlowConsumer(_)) => {
                self.context.board.alarm(Alarm::Flood, "messages came faster than this device could take them");
            }
            Event::LameDuckMode | Event::Draining => tracing::info!("the broker is about to stop"),
        }
    }

    fn server_said(&mut self, text: &str) {
        let lower = text.to_ascii_lowercase();
        if lower.contains("permissions violation") {
            self.context.board.alarm(Alarm::Denied, format!("the broker denied this device something: {text}"));
        } else if lower.contains("authentication") || lower.contains("authorization") || lower.contains("account") {
            self.refused();
        } else {
            tracing::warn!(%text, "the broker reports an error");
        }
    }

    fn came_up(&mut self, session: &Session) {
        self.link.send_modify(|link| link.client = Some(session.client.clone()));
        self.link_up();
    }

    fn link_up(&mut self) {
        if self.refused.swap(false, Ordering::Relaxed) {
            tracing::info!("the broker accepts this device again");
        }
        (self.mend_at, self.mend_failures) = (None, 0);
        self.trust_at = later(random::jittered(TRUST_FIRST));
        self.link.send_modify(|link| {
            link.connected = true;
            link.epoch += 1;
        });
        self.context.board.clear(Alarm::Denied);
        self.context.board.clear(Alarm::Flood);
        self.context.board.update(|view| {
            view.connected = true;
            view.link = "connected".into();
        });
    }

    fn refused(&mut self) {
        self.link.send_modify(|link| link.connected = false);
        if !self.refused.swap(true, Ordering::Relaxed) || self.mend_at.is_none() {
            self.say("the broker does not accept this device's JWT: expired or quarantined; apps run on".into());
            self.mend_at = Some(later(random::jittered(RETRY_FIRST)));
        }
    }

    /// Tells people how it stands; once, however often it is found out.
    fn say(&self, text: String) {
        self.context.board.update(|view| {
            if view.link != text {
                tracing::warn!("{text}");
            }
            view.connected = false;
            view.link = text;
        });
    }

    fn plan_renewal(&mut self) {
        let (jwt, received) = self.context.jwt();
        let wait = renewal_wait(Span::of(&jwt), received.age());
        // Spread: a fleet that was enrolled in one minute does not renew in one minute.
        let wait = wait.map_or(NEVER, |wait| wait + random::jittered((wait / 10).min(Duration::from_secs(3600))));
        self.renew_at = later(wait.min(NEVER));
    }

    /// A new JWT over the mesh, then a second connection that takes over before the first is closed.
    async fn renew(&mut self, session: &mut Session) {
        let (jwt, received) = self.context.jwt();
        let due = renewal_wait(Span::of(&jwt), received.age()).is_some_and(|wait| wait.is_zero());
        if !due {
            self.plan_renewal();
            return;
        }
        let outcome = if self.link.borrow().connected {
            renew::over_mesh(&self.context, &session.client).await
        } else {
            Err("no connection to the broker".to_owned())
        };
        match outcome {
            Ok(()) => {
                self.renew_failures = 0;
                self.plan_renewal();
                self.replace(session, "the JWT was renewed").await.ok();
            }
            Err(why) => {
                self.renew_failures += 1;
                tracing::info!(%why, "the JWT could not be renewed yet");
                self.renew_at = later(random::backoff(RENEW_RETRY_FIRST, RENEW_RETRY_MAX, self.renew_failures));
            }
        }
    }

    /// Keys, addresses and CA may have changed while nobody needed them.
    async fn ask_trust(&mut self, client: &Client) {
        self.trust_at = later(random::jittered(TRUST_PERIOD));
        if self.link.borrow().connected
            && let Err(why) = renew::trust_over_mesh(&self.context, client).await
        {
            tracing::info!(%why, "the coordinator was not asked for a newer trust document");
            self.trust_at = later(random::jittered(TRUST_RETRY));
        }
    }

    /// A new JWT over HTTP, for a device that the broker refuses.
    async fn mend(&mut self) {
        match renew::over_http(&self.context).await {
            Ok(()) => {
                tracing::info!("a new JWT came over HTTP");
                (self.mend_failures, self.mend_at) = (0, None);
                self.refused.store(false, Ordering::Relaxed);
                self.plan_renewal();
            }
            Err(err) => {
                self.mend_failures += 1;
                self.say(format!("the broker refuses this device, and so far the coordinator too: {err}"));
                self.mend_at = Some(later(random::backoff(RENEW_RETRY_FIRST, RENEW_RETRY_MAX, self.mend_failures)));
            }
        }
    }

    /// The clock is fit: whom it believed before has to show a certificate that is valid today.
    async fn recheck(&mut self, mut session: Session) -> Session {
        self.recheck_at = later(random::jittered(RECHECK_RETRY));
        match self.replace(&mut session, "the clock is fit, so dates are checked").await {
            Ok(()) | Err(Failed::Refused | Failed::Other(_)) => session,
            Err(Failed::Certificate(_)) => {
                self.link.send_modify(|link| link.connected = false);
                close(session).await;
                self.first().await
            }
        }
    }

    async fn replace(&mut self, session: &mut Session, why: &str) -> Result<(), Failed> {
        let opened = self.open().await;
        match &opened {
            Ok(_) => {}
            Err(Failed::Refused) => tracing::warn!(why, "the broker refused a second connection; the first is kept"),
            Err(Failed::Certificate(text) | Failed::Other(text)) => tracing::warn!(why, %text, "no second connection"),
        }
        let next = opened?;
        tracing::info!(why, "a new connection to the broker takes over");
        let old = std::mem::replace(session, next);
        self.came_up(session);
        tokio::spawn(async move {
            tokio::time::sleep(OVERLAP).await;
            close(old).await;
        });
        Ok(())
    }
}

pub(super) async fn close(session: Session) {
    if let Err(err) = session.client.drain().await {
        tracing::debug!(%err, "an old connection was gone already");
    }
    session.pump.abort();
}

async fn pump(
    client: Client,
    mut pushes: async_nats::Subscriber,
    mut commands: async_nats::Subscriber,
    inbound: Inbound,
    context: Arc<Context>,
) {
    loop {
        tokio::select! {
            // That nobody listens is no loss.
            Some(message) = pushes.next() => drop(inbound.pushes.send(message)),
            Some(message) = commands.next() => {
                if inbound.commands.try_send((client.clone(), message)).is_err() {
                    context.board.alarm(Alarm::Flood, "commands came faster than this device could take them");
                }
            }
            else => return,
        }
    }
}

fn later(wait: Duration) -> Instant {
    now() + wait
}

#[allow(clippy::disallowed_methods, reason = "tokio's own clock, for timers only")]
fn now() -> Instant {
    Instant::now()
}

/// Waits until a connection stands on a certificate whose dates could not be judged, and now can be.
async fn dates_due(board: &mut watch::Receiver<View>, dates: Dates, not_before: Instant) {
    tokio::time::sleep_until(not_before).await;
    let due = board.wait_for(|view| dates.unchecked() && clock::require(&view.clock).is_ok()).await.is_ok();
    if !due {
        std::future::pending::<()>().await;
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
