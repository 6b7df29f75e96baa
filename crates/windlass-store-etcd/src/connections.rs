//! Connections to the members, one in use at a time, and the calls that go over them.
//!
//! All calls share one HTTP/2 connection to the member in use, so that commits overlap. When that member cannot be
//! reached, sees no leader or does not answer, the next one is used; who holds a stream learns of it from
//! [`Connections::moves`].

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::watch;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;
use windlass_clock::{SharedClock, deadline};
use windlass_store::StoreError;

use crate::config::{EtcdConfig, Tls};
use crate::fault::{Fault, Kind};
use crate::method::{self, Method};
use crate::token::Tokens;
use crate::wire::{Answer, AuthenticateRequest, AuthenticateResponse};

/// The largest answer taken. A conflict shows up to 96 values of 128 KiB.
const ANSWER_BYTES: usize = 32 * 1024 * 1024;
/// etcd hangs up on clients that ping more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// Room for answers under way: the protocol's own default would make each large page wait for the network twice.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Between two rounds over all members.
const PAUSE: Duration = Duration::from_millis(100);
/// Rounds over all members when none can be connected to.
const ROUNDS: usize = 2;
/// Logins for one call: a second one when users and roles are being changed at the same time.
const LOGINS: usize = 2;

/// The ways to the members.
#[derive(Debug)]
pub(crate) struct Connections {
    members: Vec<Member>,
    /// The index of the member in use.
    current: watch::Sender<usize>,
    tokens: Tokens,
    pub(crate) clock: SharedClock,
    request_timeout: Duration,
    /// The newest revision that any answer has shown.
    seen: AtomicI64,
}

/// One member.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    channel: Channel,
}

impl Connections {
    /// Prepares the ways to all members; nothing is connected yet.
    pub(crate) async fn new(config: &EtcdConfig, clock: SharedClock) -> Result<Self, StoreError> {
        let unusable = |what: String| StoreError::Unusable(format!("connect to {config}: {what}"));
        let tls = match &config.tls {
            Some(tls) => Some(client_tls(tls, config.connect_timeout).await.map_err(unusable)?),
            None => None,
        };
        let mut members = Vec::new();
        for name in &config.endpoints {
            let endpoint =
                Endpoint::from_shared(config.uri(name)).map_err(|error| unusable(format!("{name}: {error}")))?;
            let mut endpoint = endpoint
                .connect_timeout(config.connect_timeout)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW);
            if let Some(tls) = &tls {
                endpoint = endpoint.tls_config(tls.clone()).map_err(|error| unusable(chain(&error)))?;
            }
            members.push(Member { name: name.clone(), channel: endpoint.connect_lazy() });
        }
        Ok(Self {
            members,
            current: watch::Sender::new(0),
            tokens: Tokens::new(config.login.clone()),
            clock,
            request_timeout: config.request_timeout,
            seen: AtomicI64::new(0),
        })
    }

    /// All members.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Tells the index of the member in use whenever it changes.
    pub(crate) fn moves(&self) -> watch::Receiver<usize> {
        self.current.subscribe()
    }

    /// The newest revision that any answer has shown.
    pub(crate) fn seen(&self) -> i64 {
        self.seen.load(Ordering::Acquire)
    }

    /// Notes a revision that an answer has shown.
    pub(crate) fn saw(&self, revision: i64) {
        self.seen.fetch_max(revision, Ordering::AcqRel);
    }

    /// Uses another member than `index` from now on, unless somebody has seen to that already.
    pub(crate) fn leave(&self, index: usize) {
        let next = (index + 1) % self.members.len();
        self.current.send_if_modified(|current| {
            let moves = *current == index && next != index;
            if moves {
                tracing::warn!(from = %self.members[index].name, to = %self.members[next].name, "using another etcd member");
                *current = next;
            }
            moves
        });
    }

    /// Makes a call on the member in use, and on others as long as that cannot do harm.
    pub(crate) async fn ask<Q, A>(&self, method: Method, request: &Q) -> Result<A, Fault>
    where
        Q: Message + Clone + 'static,
        A: Answer,
    {
        // A call that may be made again shall not spend all its time on one member that does not answer.
        let share = self.request_timeout / u32::try_from(self.members.len().min(3)).unwrap_or(1);
        let limit = if method.is_repeatable { share } else { self.request_timeout };
        self.ask_within(method, request, limit).await
    }

    /// The same with so much time for each try.
    pub(crate) async fn ask_within<Q, A>(&self, method: Method, request: &Q, limit: Duration) -> Result<A, Fault>
    where
        Q: Message + Clone + 'static,
        A: Answer,
    {
        let until = self.clock.monotonic() + self.request_timeout.max(limit);
        let (mut tries, mut logins, mut connected) = (0, 0, false);
        loop {
            let index = *self.current.borrow();
            let token = self.tokens.present();
            let left = until.saturating_sub(self.clock.monotonic());
            let fault = match self.on(&self.members[index], method, request, token.value, limit.min(left)).await {
                Ok(answer) => {
                    self.saw(A::revision(&answer));
                    return Ok(answer);
                }
                Err(fault) => fault,
            };
            connected |= fault.kind != Kind::NotSent;
            if fault.kind == Kind::Login && self.tokens.has_login() && logins < LOGINS {
                logins += 1;
                self.log_in(token.generation).await?;
                continue;
            }
            if !fault.is_the_members() {
                return Err(fault);
            }
            self.leave(index);
            let may_repeat = fault.is_harmless() || method.is_repeatable;
            tries += 1;
            let rounds = tries / self.members.len();
            if !may_repeat || until <= self.clock.monotonic() + PAUSE || (!connected && rounds >= ROUNDS) {
                return Err(fault);
            }
            if tries.is_multiple_of(self.members.len()) {
                self.clock.sleep(PAUSE).await;
            }
        }
    }

    /// Makes a call on one member, once, after logging in if that is needed.
    pub(crate) async fn ask_member<Q, A>(
        &self,
        member: &Member,
        method: Method,
        request: &Q,
        limit: Duration,
    ) -> Result<A, Fault>
    where
        Q: Message + Clone + 'static,
        A: Answer,
    {
        let token = self.tokens.present();
        match self.on(member, method, request, token.value, limit).await {
            Err(fault) if fault.kind == Kind::Login && self.tokens.has_login() => {
                self.log_in(token.generation).await?;
                self.on(member, method, request, self.tokens.present().value, limit).await
            }
            answer => answer,
        }
    }

    /// How long a call may take.
    pub(crate) fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// Opens a stream on the member in use, whose index it answers. The requests have to hold a first one, or etcd
    /// does not answer at all.
    pub(crate) async fn open<Q, A, S>(&self, method: Method, requests: S) -> Result<(usize, Streaming<A>), Fault>
    where
        Q: Message + 'static,
        A: Answer,
        S: futures::Stream<Item = Q> + Send + 'static,
    {
        let index = *self.current.borrow();
        let member = &self.members[index];
        let token = self.tokens.present();
        let request = self.dressed(method, requests, token.value, None);
        let opened = deadline(&*self.clock, self.request_timeout, streaming(member, method, request)).await;
        let fault = match opened {
            Ok(Ok(stream)) => return Ok((index, stream)),
            Ok(Err(fault)) => fault,
            Err(_) => unanswered(method, member, self.request_timeout),
        };
        if fault.kind == Kind::Login && self.tokens.has_login() {
            self.log_in(token.generation).await?;
        } else if fault.is_the_members() {
            self.leave(index);
        }
        Err(fault)
    }

    /// Forgets the token, as something says that it is no longer good.
    pub(crate) async fn log_in_again(&self) -> Result<(), Fault> {
        if self.tokens.has_login() { self.log_in(self.tokens.present().generation).await } else { Ok(()) }
    }

    /// Gets a token in place of the one of `generation`. Of many callers one logs in, the others wait for it.
    async fn log_in(&self, generation: u64) -> Result<(), Fault> {
        let Some(turn) = self.tokens.turn(generation).await else { return Ok(()) };
        let index = *self.current.borrow();
        let member = &self.members[index];
        let refused = |why: String| Fault::new(Kind::Refused, method::AUTHENTICATE.what, &member.name, why);
        let (name, password) = turn.credentials().await.map_err(refused)?;
        let request = AuthenticateRequest { name: name.clone(), password };
        let limit = self.request_timeout;
        let answer = self.on::<_, AuthenticateResponse>(member, method::AUTHENTICATE, &request, None, limit).await;
        match answer {
            Ok(answer) => {
                let token = answer.token.parse().map_err(|_| refused("the token is no text".to_owned()))?;
                turn.renewed(Some(token));
                Ok(())
            }
            // Authentication is off: no token is needed, and none would be taken amiss.
            Err(fault) if fault.to_string().contains("authentication is not enabled") => {
                turn.renewed(None);
                Ok(())
            }
            Err(fault) if fault.kind == Kind::Refused => {
                Err(refused(format!("etcd does not let the user {name} in ({fault}); check the name and the password")))
            }
            Err(fault) => {
                if fault.is_the_members() {
                    self.leave(index);
                }
                Err(fault)
            }
        }
    }

    async fn on<Q, A>(
        &self,
        member: &Member,
        method: Method,
        request: &Q,
        token: Option<MetadataValue<Ascii>>,
        limit: Duration,
    ) -> Result<A, Fault>
    where
        Q: Message + Clone + 'static,
        A: Answer,
    {
        let call = async {
            if method.is_stream {
                let requests = futures::stream::iter([request.clone()]);
                let mut stream = streaming(member, method, self.dressed(method, requests, token, Some(limit))).await?;
                let answer = stream.message().await.map_err(|status| Fault::of(&status, method.what, &member.name))?;
                // The end, which follows at once: a stream that is dropped before it is a reset for the member.
                let _end = stream.trailers().await;
                return answer.ok_or_else(|| Fault::new(Kind::Open, method.what, &member.name, "no answer came"));
            }
            let mut grpc = grpc(member, method).await?;
            let request = self.dressed(method, request.clone(), token, Some(limit));
            let answer =
                grpc.unary(request, PathAndQuery::from_static(method.path), ProstCodec::<Q, A>::default()).await;
            answer.map(tonic::Response::into_inner).map_err(|status| Fault::of(&status, method.what, &member.name))
        };
        match deadline(&*self.clock, limit, call).await {
            Ok(answer) => answer,
            Err(_) => Err(unanswered(method, member, limit)),
        }
    }

    fn dressed<T>(
        &self,
        method: Method,
        body: T,
        token: Option<MetadataValue<Ascii>>,
        limit: Option<Duration>,
    ) -> Request<T> {
        let mut request = Request::new(body);
        let metadata = request.metadata_mut();
        if method.needs_leader {
            metadata.insert("hasleader", MetadataValue::from_static("true"));
        }
        if let Some(token) = token {
            metadata.insert("token", token);
        }
        if let Some(limit) = limit {
            // So that the member too forgets a request that nobody waits for.
            request.set_timeout(limit);
        }
        request
    }
}

fn unanswered(method: Method, member: &Member, limit: Duration) -> Fault {
    Fault::new(Kind::Open, method.what, &member.name, format!("no answer within {limit:.1?}"))
}

async fn grpc(member: &Member, method: Method) -> Result<Grpc<Channel>, Fault> {
    let mut grpc = Grpc::new(member.channel.clone()).max_decoding_message_size(ANSWER_BYTES);
    grpc.ready().await.map_err(|error| Fault::new(Kind::NotSent, method.what, &member.name, chain(&error)))?;
    Ok(grpc)
}

async fn streaming<Q, A, S>(member: &Member, method: Method, requests: Request<S>) -> Result<Streaming<A>, Fault>
where
    Q: Message + 'static,
    A: Answer,
    S: futures::Stream<Item = Q> + Send + 'static,
{
    let mut grpc = grpc(member, method).await?;
    let path = PathAndQuery::from_static(method.path);
    let opened = grpc.streaming(requests, path, ProstCodec::<Q, A>::default()).await;
    opened.map(tonic::Response::into_inner).map_err(|status| Fault::of(&status, method.what, &member.name))
}

async fn client_tls(tls: &Tls, timeout: Duration) -> Result<ClientTlsConfig, String> {
    async fn read(what: &str, path: &std::path::Path) -> Result<Vec<u8>, String> {
        tokio::fs::read(path).await.map_err(|error| format!("read {what} from {}: {error}", path.display()))
    }
    let mut config = ClientTlsConfig::new().timeout(timeout);
    config = match &tls.ca_file {
        Some(path) => {
            let pem = read("the certificate of the authority", path).await?;
            config.ca_certificate(Certificate::from_pem(pem))
        }
        None => config.with_native_roots(),
    };
    if let Some(identity) = &tls.identity {
        let certificate = read("our certificate", &identity.cert_file).await?;
        let key = read("our key", &identity.key_file).await?;
        config = config.identity(Identity::from_pem(certificate, key));
    }
    if let Some(name) = &tls.server_name {
        config = config.domain_name(name.clone());
    }
    Ok(config)
}

/// An error with what caused it: the outermost text of the transport's says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}
