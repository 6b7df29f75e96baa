//! A client of the API.
//!
//! Reads are tried once. Changes carry an idempotency key and are tried again when the connection breaks or the server
//! asks for patience: whatever happens on the way, they happen once. [`Events`] goes on after the last event that was
//! seen, over broken connections and restarts of the server.

mod events;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Method, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;
use windlass_clock::{SharedClock, SharedEntropy, deadline};

pub use self::events::Events;
use crate::graph::Graph;
use crate::problem::Problem;
use crate::{
    AuditList, AuditQuery, BASE, CommandAnswer, CommandRequest, IDEMPOTENCY_KEY, JobDetail, JobList, JobQuery,
    KindInfo, KindList, LeftoverList, LogList, LogQuery, PlanPreview, Report, RowsQuery, RowsTaken, ScheduleAnswer,
    ScheduleCommand, ScheduleList, ScheduleView, SharedList, SubmitRequest, Submitted, TaskDetail, TaskList, TaskQuery,
    WaitFor, Whoami, WholeJob, WholeList, WholeReport, WorkerList,
};

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// Time for an answer, besides what it was asked to wait.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time for a preview, which runs tasks.
const PREVIEW: Duration = Duration::from_secs(300);
/// Times that a change is tried.
const ATTEMPTS: u32 = 4;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server says why.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// The server cannot be reached, or broke off.
    #[error("reach the server at {server}: {why}")]
    Unreachable {
        /// Where it was looked for.
        server: String,
        /// Why not, with the causes.
        why: String,
    },
    /// What answered is not a server of Windlass, or of a version that this one does not understand.
    #[error("the answer of {server} cannot be understood: {why}")]
    Answer {
        /// Who answered.
        server: String,
        /// What is wrong with it.
        why: String,
    },
    /// The address, the token or a file cannot be used.
    #[error("{0}")]
    Configuration(String),
}

impl ClientError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Problem(problem) => problem.hint.clone(),
            Self::Unreachable { .. } => Some("`windlass up` starts a server; --server names another one".to_owned()),
            Self::Answer { .. } => {
                Some("is --server the address of a windlass server, of about this version?".to_owned())
            }
            Self::Configuration(_) => None,
        }
    }

    /// The problem, when the server said one.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            _ => None,
        }
    }
}

/// Where a server is and who asks.
#[derive(Clone, Default)]
pub struct ClientConfig {
    /// `127.0.0.1:7420`, or a URL. Without a scheme: http on a loopback address, https elsewhere.
    pub server: String,
    /// The token.
    pub token: Option<String>,
    /// The only roots that are trusted, in PEM; those of the system when left out.
    pub roots: Option<PathBuf>,
    /// A client certificate and its key, in one PEM file.
    pub identity: Option<PathBuf>,
}

impl std::fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientConfig").field("server", &self.server).finish_non_exhaustive()
    }
}

/// A client of one server.
#[derive(Clone, Debug)]
pub struct Client {
    base: Url,
    http: reqwest::Client,
    clock: SharedClock,
    entropy: SharedEntropy,
}

impl Client {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`ClientError::Configuration`].
    pub fn new(config: &ClientConfig, clock: SharedClock, entropy: SharedEntropy) -> Result<Self, ClientError> {
        // Another part of the program may have installed it before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let base = address(&config.server)?;
        let wrong = |what: &str, why: &dyn std::fmt::Display| ClientError::Configuration(format!("{what}: {why}"));
        let mut headers = header::HeaderMap::new();
        if let Some(token) = &config.token {
            if base.scheme() == "http" && !is_loopback(&base) {
                let why = format!("a token is not sent in the clear to {base}; use https");
                return Err(ClientError::Configuration(why));
            }
            let value = header::HeaderValue::from_str(&format!("Bearer {}", token.trim()));
            let mut value = value.map_err(|_| ClientError::Configuration("the token has odd characters".to_owned()))?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .default_headers(headers);
        if let Some(path) = &config.roots {
            let what = format!("use the roots in {}", path.display());
            let pem = std::fs::read(path).map_err(|error| wrong(&what, &error))?;
            let roots = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong(&what, &error))?;
            builder = builder.tls_certs_only(roots);
        }
        if let Some(path) = &config.identity {
            let what = format!("use the client certificate in {}", path.display());
            let pem = std::fs::read(path).map_err(|error| wrong(&what, &error))?;
            builder = builder.identity(reqwest::Identity::from_pem(&pem).map_err(|error| wrong(&what, &error))?);
        }
        let http = builder.build().map_err(|error| wrong("make a client", &chain(&error)))?;
        Ok(Self { base, http, clock, entropy })
    }

    /// The server's address.
    #[must_use]
    pub fn server(&self) -> &Url {
        &self.base
    }

    /// A key for a change: give it to [`Client::submit`] or [`Client::command`] to repeat one.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{:032x}", self.entropy.next_u128())
    }

    /// Who asks, as the server sees it.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn whoami(&self) -> Result<Whoami, ClientError> {
        self.get(&["whoami"], &()).await
    }

    /// The kinds there are.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn kinds(&self) -> Result<KindList, ClientError> {
        self.get(&["kinds"], &()).await
    }

    /// One kind, with its schema.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn kind(&self, name: &str) -> Result<KindInfo, ClientError> {
        self.get(&["kinds", name], &()).await
    }

    /// What a job would do.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn plan(&self, request: &SubmitRequest) -> Result<PlanPreview, ClientError> {
        self.post(&["plan"], request, None, PREVIEW).await
    }

    /// Submits a job, once for each key.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn submit(&self, request: &SubmitRequest, key: &str) -> Result<Submitted, ClientError> {
        self.post(&["jobs"], request, Some(key), PATIENCE).await
    }

    /// A page of jobs.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn jobs(&self, query: &JobQuery) -> Result<JobList, ClientError> {
        self.get(&["jobs"], query).await
    }

    /// One job.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn job(&self, job: &str) -> Result<JobDetail, ClientError> {
        self.get(&["jobs", job], &()).await
    }

    /// One job, when it is as waited for or the time is over.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn wait(&self, job: &str, wait: &WaitFor) -> Result<JobDetail, ClientError> {
        self.get(&["jobs", job], wait).await
    }

    /// Gives a command to a job, once for each key.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn command(&self, job: &str, request: &CommandRequest, key: &str) -> Result<CommandAnswer, ClientError> {
        self.post(&["jobs", job, "commands"], request, Some(key), PATIENCE).await
    }

    /// A page of a job's tasks.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn tasks(&self, job: &str, query: &TaskQuery) -> Result<TaskList, ClientError> {
        self.get(&["jobs", job, "tasks"], query).await
    }

    /// One task.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn task(&self, job: &str, task: &str) -> Result<TaskDetail, ClientError> {
        self.get(&["jobs", job, "tasks", task], &()).await
    }

    /// The output of a task.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn task_output(&self, job: &str, task: &str) -> Result<Value, ClientError> {
        self.get(&["jobs", job, "tasks", task, "output"], &()).await
    }

    /// The plan as nodes and edges.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn graph(&self, job: &str) -> Result<Graph, ClientError> {
        self.get(&["jobs", job, "graph"], &()).await
    }

    /// Why a job is not done.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn why(&self, job: &str, query: &TaskQuery) -> Result<TaskList, ClientError> {
        self.get(&["jobs", job, "why"], query).await
    }

    /// Entries of a job's log.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn log(&self, job: &str, query: &LogQuery) -> Result<LogList, ClientError> {
        self.get(&["jobs", job, "log"], query).await
    }

    /// What a job did.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn report(&self, job: &str) -> Result<Report, ClientError> {
        self.get(&["jobs", job, "report"], &()).await
    }

    /// A page of jobs, with their statuses as they are stored.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn whole_jobs(&self, query: &JobQuery) -> Result<WholeList, ClientError> {
        self.get(&["whole", "jobs"], query).await
    }

    /// One job with all its tasks, as they are stored.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn whole_job(&self, job: &str) -> Result<WholeJob, ClientError> {
        self.get(&["jobs", job, "whole"], &()).await
    }

    /// What a job did, with its status as it is stored.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn whole_report(&self, job: &str) -> Result<WholeReport, ClientError> {
        self.get(&["jobs", job, "whole", "report"], &()).await
    }

    /// What a job has left outside.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn leftovers(&self, job: &str) -> Result<LeftoverList, ClientError> {
        self.get(&["jobs", job, "leftovers"], &()).await
    }

    /// Workers that are present.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn workers(&self) -> Result<WorkerList, ClientError> {
        self.get(&["workers"], &()).await
    }

    /// What jobs hold.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn shared(&self) -> Result<SharedList, ClientError> {
        self.get(&["shared"], &()).await
    }

    /// Jobs that run again by themselves.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn schedules(&self) -> Result<ScheduleList, ClientError> {
        self.get(&["schedules"], &()).await
    }

    /// One schedule.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn schedule(&self, schedule: &str) -> Result<ScheduleView, ClientError> {
        self.get(&["schedules", schedule], &()).await
    }

    /// Gives a command to a schedule, once for each key.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn schedule_command(
        &self,
        schedule: &str,
        command: ScheduleCommand,
        key: &str,
    ) -> Result<ScheduleAnswer, ClientError> {
        self.post(&["schedules", schedule, "commands"], &command, Some(key), PATIENCE).await
    }

    /// Sends rows to a table. Tried again only when they say which batch of which client they are, because then they
    /// count once.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn send_rows(
        &self,
        table: &str,
        query: &RowsQuery,
        media_type: &str,
        rows: Vec<u8>,
    ) -> Result<RowsTaken, ClientError> {
        let mut url = self.url(&["tables", table, "rows"]);
        add_query(&mut url, query);
        let rows = bytes::Bytes::from(rows);
        self.repeated(query.client.is_some(), PATIENCE * 2, || {
            self.http.post(url.clone()).header(header::CONTENT_TYPE, media_type).body(rows.clone())
        })
        .await
    }

    /// Who changed what.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn audit(&self, query: &AuditQuery) -> Result<AuditList, ClientError> {
        self.get(&["audit"], query).await
    }

    /// Follows a job from after its log entry `after`.
    #[must_use]
    pub fn follow(&self, job: &str, after: u64) -> Events {
        Events::new(self.clone(), self.url(&["jobs", job, "events"]), (after > 0).then(|| after.to_string()))
    }

    /// Follows all jobs from after the event `after`, or from now on.
    #[must_use]
    pub fn follow_all(&self, after: Option<String>) -> Events {
        Events::new(self.clone(), self.url(&["events"]), after)
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        // An http URL has a path that can be added to.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(BASE.trim_start_matches('/').split('/')).extend(path);
        }
        url
    }

    async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &impl Serialize) -> Result<T, ClientError> {
        let mut url = self.url(path);
        add_query(&mut url, query);
        // It may wait for a minute, as asked.
        self.sent(self.http.request(Method::GET, url), PATIENCE * 2).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &impl Serialize,
        key: Option<&str>,
        patience: Duration,
    ) -> Result<T, ClientError> {
        let text = serde_json::to_vec(body).map_err(|error| ClientError::Configuration(error.to_string()))?;
        let url = self.url(path);
        self.repeated(key.is_some(), patience, || {
            let request = self.http.post(url.clone()).header(header::CONTENT_TYPE, "application/json");
            let request = match key {
                Some(key) => request.header(IDEMPOTENCY_KEY, key),
                None => request,
            };
            request.body(text.clone())
        })
        .await
    }

    /// Sends a change, and again if that `counts_once`.
    async fn repeated<T: DeserializeOwned>(
        &self,
        counts_once: bool,
        patience: Duration,
        request: impl Fn() -> reqwest::RequestBuilder,
    ) -> Result<T, ClientError> {
        let mut attempt = 1;
        loop {
            let error = match self.sent(request(), patience).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let again = match &error {
                ClientError::Unreachable { .. } => true,
                ClientError::Problem(problem) => matches!(problem.status, 429 | 503),
                ClientError::Answer { .. } | ClientError::Configuration(_) => false,
            };
            if !again || !counts_once || attempt == ATTEMPTS {
                return Err(error);
            }
            tracing::debug!(%error, attempt, "a change is tried again");
            self.clock.sleep(Duration::from_millis(200) * 2u32.pow(attempt)).await;
            attempt += 1;
        }
    }

    async fn sent<T: DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
        patience: Duration,
    ) -> Result<T, ClientError> {
        let answer = async {
            let response = request.send().await.map_err(|error| self.unreachable(&error))?;
            let status = response.status();
            let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
            Ok((status, bytes))
        };
        let answer = deadline(&*self.clock, patience, answer).await;
        let (status, bytes) = answer.unwrap_or_else(|_| {
            let why = format!("no answer within {} s", patience.as_secs());
            Err(ClientError::Unreachable { server: self.base.to_string(), why })
        })?;
        if !status.is_success() {
            return Err(self.refused(status, &bytes));
        }
        serde_json::from_slice(&bytes).map_err(|error| self.odd(error.to_string()))
    }

    fn refused(&self, status: StatusCode, bytes: &[u8]) -> ClientError {
        match serde_json::from_slice::<Problem>(bytes) {
            Ok(problem) => ClientError::Problem(Box::new(problem)),
            Err(_) => self.odd(format!("the status is {status}, without a problem document")),
        }
    }

    fn odd(&self, why: String) -> ClientError {
        ClientError::Answer { server: self.base.to_string(), why }
    }

    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        ClientError::Unreachable { server: self.base.to_string(), why: chain(error) }
    }
}

fn add_query(url: &mut Url, query: &impl Serialize) {
    let members = serde_json::to_value(query).unwrap_or_default();
    for (name, value) in members.as_object().into_iter().flatten() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        url.query_pairs_mut().append_pair(name, &text);
    }
}

/// An error with its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let own = error.to_string();
        if !text.contains(&own) {
            text += &format!(": {own}");
        }
        cause = error.source();
    }
    text
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

/// The URL of a server as people name it.
fn address(text: &str) -> Result<Url, ClientError> {
    let wrong = |why: &str| {
        ClientError::Configuration(format!("{text:?} is not the address of a server ({why}); write 127.0.0.1:7420"))
    };
    let whole = if text.contains("://") {
        text.to_owned()
    } else {
        let loopback = text.parse::<SocketAddr>().map_or_else(
            |_| text == "localhost" || text.starts_with("localhost:"),
            |address| address.ip().is_loopback(),
        );
        format!("{}://{text}", if loopback { "http" } else { "https" })
    };
    let url = Url::parse(&whole).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong("http or https is expected"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ClientError::Configuration("the address of a server has no user in it; give a token".to_owned()));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_clock::{Seeded, SystemClock};

    #[tokio::test]
    async fn addresses_are_read_as_people_write_them() {
        for (text, url) in [
            ("127.0.0.1:7420", "http://127.0.0.1:7420/"),
            ("localhost:7420", "http://localhost:7420/"),
            ("[::1]:7420", "http://[::1]:7420/"),
            ("windlass.example.org", "https://windlass.example.org/"),
            ("10.0.0.1:7420", "https://10.0.0.1:7420/"),
            ("https://example.org/below", "https://example.org/below"),
        ] {
            assert_eq!(address(text).unwrap().as_str(), url);
        }
        for text in ["", "ftp://x", "https://me:pw@x", "http://"] {
            let error = address(text).unwrap_err().to_string();
            assert!(!error.contains("pw@"), "{error}");
        }
        let config = |server: &str| ClientConfig {
            server: server.into(),
            token: Some("wlt_x".into()),
            ..ClientConfig::default()
        };
        let new = |server: &str| Client::new(&config(server), SystemClock::real(), Seeded::shared(1));
        assert!(new("http://10.0.0.1:1").is_err());
        let client = new("https://example.org/below/").unwrap();
        assert_eq!(client.url(&["jobs", "a/b c"]).as_str(), "https://example.org/below/api/v1/jobs/a%2Fb%20c");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named_with_a_hint() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let config = ClientConfig { server: address.to_string(), ..ClientConfig::default() };
        let client = Client::new(&config, SystemClock::real(), Seeded::shared(1)).unwrap();
        let error = client.job("x").await.unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        assert!(error.hint().unwrap().contains("windlass up"));
    }
}
