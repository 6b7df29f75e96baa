//! The S3 server: `s3s` over a folder, every sub-folder a bucket.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// How a server behaves beyond the plain protocol.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// If set, a request that does not carry exactly this session token is answered 403 `InvalidToken`.
    pub session_token: Option<String>,
    /// If true, conditional headers are dropped without a word and signatures are not checked, which is how some
    /// stores people run behave: the second "create" then wins.
    pub ignore_conditions: bool,
}

/// An S3 server in this process. Stops when dropped.
///
/// Buckets are the folders directly below the folder it was started on; [`S3Server::create_bucket`] makes one.
/// Besides what `s3s-fs` does it honours `If-Match` on GET (412 when the ETag differs), as production stores do.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    dir: std::path::PathBuf,
    // `Option` because stopping a runtime takes it by value, and `drop` has only a reference.
    runtime: Option<Runtime>,
}

impl S3Server {
    /// The access key id the server accepts.
    pub const ACCESS_KEY: &'static str = "AKIDTEST";
    /// The secret that belongs to [`S3Server::ACCESS_KEY`].
    pub const SECRET_KEY: &'static str = "SECRETTEST";

    /// Starts a server over `dir` on a free loopback port.
    ///
    /// # Errors
    ///
    /// When `dir` cannot be opened, or no loopback port or thread is to be had.
    pub fn start(dir: &Path) -> io::Result<Self> {
        Self::start_with(dir, "127.0.0.1:0", Options::default())
    }

    /// Starts a server over `dir` on `address` (port 0 picks a free one) with `options`.
    ///
    /// # Errors
    ///
    /// As [`S3Server::start`], and when `address` is taken or not an address.
    pub fn start_with(dir: &Path, address: &str, options: Options) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("s3-server")
            .enable_all()
            .build()?;
        let (listener, service) = prepare(dir, address, &options)?;
        let address = listener.local_addr()?;
        let listener = {
            let _context = runtime.enter();
            TcpListener::from_std(listener)?
        };
        runtime.spawn(accept(listener, service, Arc::new(options)));
        Ok(Self { address, dir: dir.to_path_buf(), runtime: Some(runtime) })
    }

    /// Where the server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The endpoint as an S3 client wants it: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes the bucket `name`, if it is not there yet.
    ///
    /// # Errors
    ///
    /// When the folder cannot be made.
    pub fn create_bucket(&self, name: &str) -> io::Result<()> {
        std::fs::create_dir_all(self.dir.join(name))
    }

    /// The environment variables with which the usual S3 clients are let in.
    #[must_use]
    pub fn credentials() -> [(&'static str, &'static str); 2] {
        [("AWS_ACCESS_KEY_ID", Self::ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", Self::SECRET_KEY)]
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Serves `dir` on `address` until `stop` resolves: the body of a stand-alone server program.
///
/// `ready` is called once with the address really bound.
///
/// # Errors
///
/// When `dir` cannot be opened or `address` cannot be bound.
pub async fn serve_until(
    dir: &Path,
    address: &str,
    options: Options,
    ready: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let (listener, service) = prepare(dir, address, &options)?;
    ready(listener.local_addr()?);
    let listener = TcpListener::from_std(listener)?;
    tokio::select! {
        () = accept(listener, service, Arc::new(options)) => Ok(()),
        () = stop => Ok(()),
    }
}

fn prepare(dir: &Path, address: &str, options: &Options) -> io::Result<(std::net::TcpListener, S3Service)> {
    let files = s3s_fs::FileSystem::new(dir)
        .map_err(|error| io::Error::other(format!("cannot serve {} over S3: {error:?}", dir.display())))?;
    let mut builder = S3ServiceBuilder::new(files);
    if !options.ignore_conditions {
        builder.set_auth(s3s::auth::SimpleAuth::from_single(S3Server::ACCESS_KEY, S3Server::SECRET_KEY));
    }
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok((listener, builder.build()))
}

async fn accept(listener: TcpListener, service: S3Service, options: Arc<Options>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Out of descriptors, most likely: let the connections under way finish first.
            tokio::task::yield_now().await;
            continue;
        };
        // Without it small answers wait for the peer's delayed acknowledgement, 40 ms each.
        let _ = socket.set_nodelay(true);
        let (service, options) = (service.clone(), Arc::clone(&options));
        let answer = service_fn(move |request| answer(service.clone(), Arc::clone(&options), request));
        tokio::spawn(async move {
            // The peer hanging up is an everyday event here.
            let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(socket), answer)
                .await;
        });
    }
}

async fn answer(
    service: S3Service,
    options: Arc<Options>,
    mut request: Request<Incoming>,
) -> Result<Response<s3s::Body>, s3s::HttpError> {
    if let Some(wanted) = &options.session_token {
        let given = request.headers().get("x-amz-security-token").and_then(|value| value.to_str().ok());
        if given != Some(wanted) {
            return Ok(refusal(StatusCode::FORBIDDEN, "InvalidToken", "the session token is missing or wrong"));
        }
    }
    let if_match =
        (request.method() == Method::GET).then(|| request.headers().get(header::IF_MATCH).cloned()).flatten();
    if options.ignore_conditions {
        for name in [header::IF_MATCH, header::IF_NONE_MATCH, header::AUTHORIZATION] {
            request.headers_mut().remove(name);
        }
    }
    let response = hyper::service::Service::call(&service, request).await?;
    if let (Some(wanted), Some(found)) = (if_match, response.headers().get(header::ETAG))
        && wanted != *found
        && response.status().is_success()
        && !options.ignore_conditions
    {
        return Ok(refusal(StatusCode::PRECONDITION_FAILED, "PreconditionFailed", "the object is another one now"));
    }
    Ok(response)
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response<s3s::Body> {
    let mut response = Response::new(s3s::Body::from(super::fault::error_document(code, message)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/xml"));
    response
}
