//! A cluster in a process of its own, told what to do line by line.
//!
//! Each answer is one line of JSON. The first line says where everything is ([`super::Addresses`]). A request that cannot
//! be done is answered `{"error": …}`. The host ends with its input, so it does not outlive the process that started it.
//!
//! | line | answer |
//! | --- | --- |
//! | `crash A`, `restart A`, `start A`, `stop A`, `hang A`, `unhang A`, `cut A`, `save A`, `upload A` | `{}` |
//! | `watch` | `{}`; begins to watch copies, at most one above the baseline |
//! | `violations` | `{"count": …, "first": […]}` |
//! | `resurrected` | list of ids |
//! | `counts` | per agent `{"stored": …, "uncommitted": …}` |
//! | `placement`, `durable` | object from id to a list of `[agent, time]` |
//! | `update ID TIME`, `delete ID TIME`, `insert ID TIME` | `{}`; as a client does, with a vector made from id and time |
//! | `backups DIRECTORY` | `{}`; writes the last backups |

use std::io;
use std::path::Path;

use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::cluster::Cluster;
use super::ids;
use super::world::Placement;

/// The longest line that is taken, in bytes.
const LONGEST_LINE: u64 = 1 << 20;

/// Serves `cluster` and does what the lines of `input` say until it ends. See the module's table of lines in its source:
/// `crash`, `restart`, `start`, `stop`, `hang`, `unhang`, `cut`, `save`, `upload` (each with the number of an agent), `watch`,
/// `violations`, `resurrected`, `counts`, `placement`, `durable`, `insert`/`update`/`delete` (id and time), `backups`
/// (directory).
///
/// # Errors
///
/// Input or output breaks, or a line is longer than 1 MiB.
pub async fn host(
    cluster: Cluster,
    mut input: impl AsyncBufRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    answer(&mut output, &json!(cluster.addresses())).await?;
    loop {
        let mut line = String::new();
        if (&mut input).take(LONGEST_LINE).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        if !line.ends_with('\n') && line.len() as u64 == LONGEST_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is longer than 1 MiB"));
        }
        let value = obey(&cluster, line.trim()).await.unwrap_or_else(|error| json!({ "error": error }));
        answer(&mut output, &value).await?;
    }
}

async fn answer(output: &mut (impl AsyncWrite + Unpin), value: &Value) -> io::Result<()> {
    let mut line = value.to_string();
    line.push('\n');
    output.write_all(line.as_bytes()).await?;
    output.flush().await
}

async fn obey(cluster: &Cluster, line: &str) -> Result<Value, String> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "crash" => cluster.crash(agent(cluster, rest)?),
        "restart" => cluster.restart(agent(cluster, rest)?),
        "start" => cluster.start(agent(cluster, rest)?),
        "stop" => cluster.stop(agent(cluster, rest)?).await,
        "hang" => cluster.hang(agent(cluster, rest)?, true),
        "unhang" => cluster.hang(agent(cluster, rest)?, false),
        "cut" => cluster.cut(agent(cluster, rest)?),
        "save" => cluster.build_and_save(agent(cluster, rest)?).await.map_err(text)?,
        "upload" => cluster.upload(agent(cluster, rest)?).await.map_err(text)?,
        "watch" => cluster.watch_copies(true),
        "violations" => {
            let first: Vec<String> = cluster.violations().iter().map(|violation| format!("{violation:?}")).collect();
            return Ok(json!({ "count": cluster.violation_count(), "first": first }));
        }
        "resurrected" => {
            return Ok(cluster.resurrected().iter().map(|id| Value::from(&**id)).collect());
        }
        "counts" => {
            let counts = (0..cluster.agents()).map(|agent| cluster.counts(agent));
            return Ok(counts.map(|c| json!({ "stored": c.stored, "uncommitted": c.uncommitted })).collect());
        }
        "placement" => return Ok(as_json(&cluster.placement())),
        "durable" => return Ok(as_json(&cluster.durable_placement())),
        "insert" | "update" | "delete" => client(cluster, word, rest)?,
        "backups" => cluster.write_backups_to(Path::new(rest)).map_err(text)?,
        _ => return Err(format!("unknown request {}", word.escape_debug())),
    }
    Ok(json!({}))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn agent(cluster: &Cluster, name: &str) -> Result<usize, String> {
    let number: Option<usize> = name.parse().ok();
    number.filter(|agent| *agent < cluster.agents()).ok_or_else(|| format!("{} is no agent", name.escape_debug()))
}

fn client(cluster: &Cluster, word: &str, rest: &str) -> Result<(), String> {
    let (id, time) = rest.rsplit_once(' ').ok_or("an id and a time are needed")?;
    let time: i64 = time.parse().map_err(|_| format!("{} is no time", time.escape_debug()))?;
    let vector = ids::vector(&format!("{id}, {time}"), cluster.dimension());
    match word {
        "insert" => cluster.client_insert(id, &vector, time),
        "update" => cluster.client_update(id, &vector, time),
        _ => cluster.client_delete(id, time),
    }
    .map_err(text)
}

fn as_json(placement: &Placement) -> Value {
    placement.iter().map(|(id, copies)| (id.to_string(), json!(copies))).collect::<serde_json::Map<_, _>>().into()
}
