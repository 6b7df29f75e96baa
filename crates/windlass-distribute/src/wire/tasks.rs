//! Open transfers as old agents see them: `/tasks`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Answer, JSON, Route, route};
use crate::settings::ip_of;

/// How far a task is, in the words of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for its agent.
    Ready,
    /// Under way.
    Working,
    /// Its agent says that it is over.
    Done,
    /// Given up.
    Timeout,
}

impl Status {
    /// Whether a task may go from here to `to`. Saying again what is already so is fine, but for `ready`.
    #[must_use]
    pub const fn may_become(self, to: Self) -> bool {
        match (self, to) {
            (_, Self::Ready) | (Self::Timeout, Self::Working) | (Self::Done, Self::Working | Self::Timeout) => false,
            (_, Self::Working | Self::Done | Self::Timeout) => true,
        }
    }
}

/// A task as it is sent. Sizes of numbers and the order of the keys are those of the original.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// A decimal number.
    pub id: String,
    /// When it was made, epoch seconds.
    pub ctime: i64,
    /// When somebody changed it last.
    pub mtime: i64,
    /// How far it is.
    pub status: Status,
    /// What the downloader gets.
    pub src_ip: String,
    /// For agents of old.
    pub dst_ip: String,
    /// Path on the origin.
    pub file_path: String,
    /// Name in the node's folder.
    pub file_name: String,
    /// The rank.
    pub grade: u32,
    /// Bits per second.
    pub copy_speed: String,
    /// `ip:port`.
    pub src_addr: String,
    /// `ip:port`; an agent takes the tasks whose `dst_addr` equals its own address exactly.
    pub dst_addr: String,
}

impl Task {
    /// A new task. All four address fields are sent, because agents of different age look at different ones.
    #[must_use]
    pub fn new(id: i64, now: i64, file: (&str, &str), rank: u32, copy_speed: &str, ends: (&str, &str)) -> Self {
        let ip = |addr: &str| ip_of(addr).unwrap_or(addr).to_owned();
        let ((file_path, file_name), (source, destination)) = (file, ends);
        Self {
            id: id.to_string(),
            ctime: now,
            mtime: now,
            status: Status::Ready,
            src_ip: ip(source),
            dst_ip: ip(destination),
            file_path: file_path.to_owned(),
            file_name: file_name.to_owned(),
            grade: rank,
            copy_speed: copy_speed.to_owned(),
            src_addr: source.to_owned(),
            dst_addr: destination.to_owned(),
        }
    }
}

/// What a request changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// A task's status was set, perhaps to what it was.
    Status(i64, Status),
    /// A task was deleted: its agent gave it up.
    Deleted(i64),
}

/// Tasks by id.
#[derive(Clone, Debug, Default)]
pub struct Tasks(pub BTreeMap<i64, Task>);

impl Tasks {
    /// Answers a request at the time `now`. `path` is as it was sent, still encoded.
    pub fn answer(&mut self, method: &str, path: &str, body: &[u8], now: i64) -> (Answer, Change) {
        let nothing = |answer| (answer, Change::None);
        let (parts, slash) = match route(path) {
            Route::Bad => return nothing(Answer::bare(400)),
            Route::Moved(answer) => return nothing(answer),
            Route::To(parts) => (parts, false),
            Route::Slash(parts) => (parts, true),
        };
        match (parts.as_slice(), method) {
            ([one], "GET") if one == b"tasks" && slash => nothing(Answer::elsewhere(b"/tasks")),
            ([one], "GET") if one == b"tasks" => nothing(self.list()),
            ([one], _) if one == b"tasks" => nothing(Answer::bare(405)),
            ([one, id], _) if one == b"tasks" && !slash => {
                let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
                match (method, id) {
                    ("PATCH" | "DELETE", None) => nothing(Answer::empty(400, JSON)),
                    ("PATCH", Some(id)) => self.patch(id, body, now),
                    ("DELETE", Some(id)) => match self.0.remove(&id) {
                        Some(_) => (Answer::empty(200, JSON), Change::Deleted(id)),
                        None => nothing(Answer::empty(404, JSON)),
                    },
                    ("GET", Some(id)) => nothing(match self.0.get(&id) {
                        Some(task) => document(task),
                        None => Answer::empty(404, JSON),
                    }),
                    ("GET", None) => nothing(Answer::empty(404, JSON)),
                    _ => nothing(Answer::bare(405)),
                }
            }
            _ => nothing(Answer::nowhere()),
        }
    }

    fn list(&self) -> Answer {
        document(&self.0.values().collect::<Vec<_>>())
    }

    fn patch(&mut self, id: i64, body: &[u8], now: i64) -> (Answer, Change) {
        #[derive(Deserialize)]
        struct Patch {
            status: Status,
        }
        let Ok(Patch { status }) = serde_json::from_slice(body) else {
            return (Answer::empty(400, JSON), Change::None);
        };
        let Some(task) = self.0.get_mut(&id) else { return (Answer::empty(404, JSON), Change::None) };
        if !task.status.may_become(status) {
            return (Answer::empty(409, JSON), Change::None);
        }
        task.status = status;
        task.mtime = now;
        (Answer::empty(200, JSON), Change::Status(id, status))
    }
}

fn document(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            Answer { body, ..Answer::empty(200, JSON) }
        }
        Err(_) => Answer::empty(500, JSON),
    }
}
