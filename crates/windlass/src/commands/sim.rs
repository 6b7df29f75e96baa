//! `windlass sim …`: stand-ins of remote systems, in a process of their own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Subcommand;
use serde_json::json;
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use windlass_sim::vald::{Cluster, Uploader, host};

use crate::app::App;
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::job_file::JobFile;
use crate::problem::Problem;

/// Connections that one fixed port serves at a time.
const CONNECTIONS: usize = 256;

/// Stand-ins of remote systems, for tests and examples.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A vector index cluster that speaks the real protocol
    ///
    /// Tells on the first line where everything is, then does what the lines of standard input say and ends with it:
    /// `counts`, `placement`, `durable`, `watch`, `violations`, `resurrected`; with the number of an agent `crash`,
    /// `restart`, `start`, `stop`, `hang`, `unhang`, `cut`, `save`, `upload`; with an id and a time `insert`,
    /// `update`, `delete`; `backups FOLDER`. Each is answered with one line of JSON.
    Vald(Args),
    /// A small OpenStack cloud with replicas of the volumes of a `recover` job, until interrupted
    ///
    /// It keeps everything in memory, and takes the user admin with the password lab-secret.
    Cloud(CloudArgs),
}

/// Which cloud.
#[derive(Debug, clap::Args)]
pub(crate) struct CloudArgs {
    /// The job file whose volumes have replicas there
    #[arg(long = "for", value_name = "FILE")]
    job: PathBuf,
    /// The name of the site
    #[arg(long, default_value = "b")]
    name: String,
    /// The port that it answers on
    #[arg(long, default_value_t = 7430)]
    port: u16,
    /// How long servers and volumes take to become ready, in milliseconds
    #[arg(long, default_value_t = 400, value_name = "MS")]
    ready: u64,
}

pub(super) async fn cloud(app: &App, args: &CloudArgs) -> anyhow::Result<Exit> {
    let file = JobFile::read(&args.job, &app.setting.kinds)?;
    let mut options = windlass_sim_cloud::Options::new(&args.name);
    options.ready_ms = args.ready;
    let cloud = windlass_sim_cloud::SimCloud::start_on(options, app.setting.clock.clone(), args.port)
        .await
        .with_context(|| format!("listen on port {}", args.port))?;
    let mut replicas = Vec::new();
    for volume in file.request.spec["inventory"]["volumes"].as_array().into_iter().flatten() {
        let text = |name: &str| volume[name].as_str().unwrap_or_default();
        let metadata = json!({ "windlass_replica_of": text("id") });
        let size = volume["size_gib"].as_u64().unwrap_or(1);
        let name = format!("replica of {}", text("name"));
        let id = cloud.plant_volume(&name, size, text("id"), volume["bootable"] == true, &metadata);
        if volume["multiattach"] == true {
            cloud.share_volume(&id);
        }
        replicas.push(id);
    }
    let document = json!({ "name": args.name, "auth_url": cloud.auth_url(), "replicas": replicas });
    app.output.result(&document, || {
        format!("site {} answers at {} with {} replicas; Ctrl-C ends it\n", args.name, cloud.auth_url(), replicas.len())
    })?;
    Interrupt::listen(&app.output, "stopping")?.came().await;
    Ok(Exit::Done)
}

/// What the cluster is like.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of agents
    #[arg(long, default_value_t = 3)]
    agents: usize,
    /// Copies of each id
    #[arg(long, default_value_t = 2)]
    replica: usize,
    /// Distinct ids
    #[arg(long, default_value_t = 2400)]
    ids: u64,
    /// Agent A is filled with weight 1 + skew × A; 0 is even
    #[arg(long, default_value_t = 2.0)]
    skew: f64,
    /// Elements of a vector
    #[arg(long, default_value_t = 8)]
    dimension: usize,
    /// Other ids for another number
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Agents answer on this port and those after it; then the gateway and the discoverer. Otherwise any free ports
    #[arg(long, value_name = "PORT")]
    base_port: Option<u16>,
    /// Folder for the agents' backups; made if it is missing
    #[arg(long, value_name = "FOLDER")]
    backups: Option<PathBuf>,
    /// Agents have no volume and restart from their last backup
    #[arg(long)]
    volatile: bool,
    /// Take no lines; run until interrupted
    #[arg(long)]
    serve: bool,
}

pub(super) async fn vald(app: &App, args: &Args) -> anyhow::Result<Exit> {
    let mut builder = Cluster::builder()
        .agents(args.agents)
        .replica(args.replica)
        .ids(args.ids)
        .skew(args.skew)
        .dimension(args.dimension)
        .seed(args.seed)
        .persistent(!args.volatile);
    if let Some(folder) = &args.backups {
        std::fs::create_dir_all(folder).with_context(|| format!("make the folder {}", folder.display()))?;
        builder = builder.uploader(Uploader::to_directory(folder));
    }
    let cluster = builder.start().await.map_err(|error| Problem::usage(format!("start the cluster: {error}")))?;
    if let Some(folder) = &args.backups {
        cluster.write_backups_to(folder).with_context(|| format!("write backups to {}", folder.display()))?;
    }
    let mut doors = Vec::new();
    if let Some(base) = args.base_port {
        let addresses = cluster.addresses();
        let fronts =
            addresses.agents.iter().map(|agent| &agent.address).chain([&addresses.gateway, &addresses.discoverer]);
        for (port, target) in (base..=u16::MAX).zip(fronts) {
            doors.push(open_door(port, target).await?);
        }
    }
    let interrupt = Interrupt::listen(&app.output, "stopping")?;
    if args.serve {
        app.output.json(&json!(cluster.addresses()))?;
        interrupt.came().await;
        return Ok(Exit::Done);
    }
    let hosted = host(cluster, BufReader::new(tokio::io::stdin()), tokio::io::stdout());
    tokio::select! {
        ended = hosted => ended.context("talk to whoever started the stand-in")?,
        () = interrupt.came() => {}
    }
    drop(doors);
    Ok(Exit::Done)
}

/// Serves a fixed port by handing its connections on: the cluster itself takes whatever ports are free.
async fn open_door(port: u16, target: &str) -> anyhow::Result<AbortOnDropHandle<()>> {
    let target: SocketAddr = target.parse().with_context(|| format!("understand the address {target}"))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .with_context(|| Problem::unreachable(format!("listen on port {port}")))?;
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        let mut connections = JoinSet::new();
        // The semaphore is never closed.
        while let Ok(place) = places.clone().acquire_owned().await {
            while connections.try_join_next().is_some() {}
            let Ok((mut client, _)) = listener.accept().await else { continue };
            connections.spawn(async move {
                if let Ok(mut server) = TcpStream::connect(target).await {
                    // Either side ends it; there is nobody to tell how.
                    let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
                drop(place);
            });
        }
    })))
}
