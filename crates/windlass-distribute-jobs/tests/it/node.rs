//! Nodes that are played: agents of either wire in memory, behind real sockets, that can lie. An observer sees all of
//! them and writes down what may never happen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use windlass_clock::SharedClock;
use windlass_distribute::wire::agent::{Name, Source, TransferOrder, TransferPatch, version_of};

/// How a node misbehaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Not at all.
    #[default]
    None,
    /// It takes connections and says nothing.
    Hangs,
    /// It closes every connection.
    Dead,
    /// Its listing is empty.
    Empty,
    /// Its listing is half of what it should be, and ends there.
    Cut,
    /// Its listing never comes to its end.
    Slow,
    /// Its listing is an error.
    Error,
    /// Its listing is somebody's page.
    Page,
    /// Its listing is of yesterday.
    Yesterday,
    /// Its clock is a day ahead.
    Clock,
}

/// A transfer.
struct Transfer {
    order: TransferOrder,
    source: String,
    from: Duration,
    until: Duration,
    cancelled: bool,
    done: bool,
}

/// What a node has.
#[derive(Default)]
struct Disk {
    files: BTreeMap<Vec<u8>, (u64, u64)>,
    total: u64,
    transfers: BTreeMap<String, Transfer>,
    generation: u64,
    lie: Lie,
    term: u64,
    yesterday: Vec<u8>,
}

/// What all nodes have in common.
struct Shared {
    clock: SharedClock,
    disks: BTreeMap<String, Disk>,
    takes: Duration,
    wrong: Vec<String>,
    deletes: Vec<String>,
    copies: Vec<String>,
    asked: u64,
    limit: usize,
    loses: bool,
    /// Of each transfer its source, when it began and when it will have ended.
    busy: Vec<(String, Duration, Duration)>,
    /// What transfers under way were told of their speed.
    paces: Vec<Option<u64>>,
    /// Who takes the connections of each node.
    doors: BTreeMap<String, tokio::task::AbortHandle>,
}

/// All nodes.
#[derive(Clone)]
pub(crate) struct Nodes(Arc<Mutex<Shared>>, Arc<Mutex<tokio::task::JoinSet<()>>>);

impl Nodes {
    pub(crate) fn new(clock: SharedClock) -> Self {
        let shared = Shared {
            clock,
            disks: BTreeMap::new(),
            takes: Duration::from_millis(30),
            wrong: Vec::new(),
            deletes: Vec::new(),
            copies: Vec::new(),
            asked: 0,
            limit: 1,
            loses: false,
            busy: Vec::new(),
            paces: Vec::new(),
            doors: BTreeMap::new(),
        };
        Self(Arc::new(Mutex::new(shared)), Arc::default())
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        let mut shared = self.0.lock().unwrap();
        shared.settle();
        shared
    }

    /// Starts a node; returns its address.
    pub(crate) async fn start(&self, total: u64, files: &[(&str, u64)]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let files = files.iter().map(|(name, size)| (name.as_bytes().to_vec(), (*size, 1))).collect();
        self.lock().disks.insert(address.clone(), Disk { files, total, generation: 1, ..Disk::default() });
        let (this, own) = (self.clone(), address.clone());
        let door = self.1.lock().unwrap().spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            loop {
                let Ok((socket, _)) = listener.accept().await else { return };
                let (this, own) = (Self(this.0.clone(), Arc::default()), own.clone());
                open.spawn(async move {
                    let _ = this.connection(&own, socket).await;
                });
            }
        });
        self.lock().doors.insert(address.clone(), door);
        address
    }

    /// Nobody takes connections there any more.
    pub(crate) fn close(&self, address: &str) {
        self.lock().doors[address].abort();
    }

    /// What transfers under way were told of their speed.
    pub(crate) fn paces(&self) -> Vec<Option<u64>> {
        self.lock().paces.clone()
    }

    /// How long transfers take from now on.
    pub(crate) fn takes(&self, takes: Duration) {
        self.lock().takes = takes;
    }

    /// From now on last copies may go: there is not room for all.
    pub(crate) fn may_lose(&self) {
        self.lock().loses = true;
    }

    pub(crate) fn lie(&self, address: &str, lie: Lie) {
        self.lock().disks.get_mut(address).unwrap().lie = lie;
    }

    /// Keeps today's listing, to be told tomorrow.
    pub(crate) fn remember(&self, address: &str) {
        let mut shared = self.lock();
        let disk = shared.disks.get_mut(address).unwrap();
        disk.yesterday = disk.inventory();
    }

    pub(crate) fn files(&self, address: &str) -> Vec<String> {
        let text = |name: &Vec<u8>| String::from_utf8_lossy(name).into_owned();
        self.lock().disks[address].files.keys().map(text).collect()
    }

    pub(crate) fn put(&self, address: &str, name: &str, size: u64) {
        self.lock().disks.get_mut(address).unwrap().add(name.as_bytes(), size);
    }

    /// A node has these files of ten bytes, and no memory of what it did since it had them.
    pub(crate) fn put_back(&self, address: &str, names: &[String]) {
        let mut shared = self.lock();
        let disk = shared.disks.get_mut(address).unwrap();
        disk.files = names.iter().map(|name| (name.as_bytes().to_vec(), (10, 1))).collect();
        disk.transfers.clear();
        (disk.term, disk.generation) = (0, disk.generation.wrapping_sub(1));
    }

    /// A file on a disk goes by itself.
    pub(crate) fn lose(&self, address: &str, name: &str) {
        let mut shared = self.lock();
        let disk = shared.disks.get_mut(address).unwrap();
        disk.files.remove(name.as_bytes());
        disk.generation += 1;
    }

    /// Which nodes have a file.
    pub(crate) fn holders(&self, name: &str) -> Vec<String> {
        let shared = self.lock();
        let has = |(_, disk): &(&String, &Disk)| disk.files.contains_key(name.as_bytes());
        shared.disks.iter().filter(has).map(|(address, _)| address.clone()).collect()
    }

    /// What is where, without addresses.
    pub(crate) fn picture(&self) -> String {
        let shared = self.lock();
        let line = |disk: &Disk| -> String {
            let names: Vec<String> = disk.files.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
            names.join(",")
        };
        let mut lines: Vec<String> = shared.disks.values().map(line).collect();
        lines.sort();
        format!(
            "{} | {} copies, {} deletes | {}",
            lines.join(" ; "),
            shared.copies.len(),
            shared.deletes.len(),
            shared.wrong.join("; ")
        )
    }

    pub(crate) fn deletes(&self) -> Vec<String> {
        self.lock().deletes.clone()
    }

    pub(crate) fn copies(&self) -> Vec<String> {
        self.lock().copies.clone()
    }

    /// How long each source was idle between two of its transfers.
    pub(crate) fn pauses(&self, source: &str) -> Vec<Duration> {
        let shared = self.lock();
        let mut busy: Vec<_> = shared.busy.iter().filter(|(one, ..)| one == source).collect();
        busy.sort_by_key(|(_, from, _)| *from);
        busy.windows(2).map(|pair| pair[1].1.saturating_sub(pair[0].2)).collect()
    }

    /// How many transfers read from a node.
    pub(crate) fn served(&self, source: &str) -> usize {
        self.lock().busy.iter().filter(|(one, ..)| one == source).count()
    }

    /// All nodes have seen this term.
    pub(crate) fn has_seen(&self, term: u64) {
        self.lock().disks.values_mut().for_each(|disk| disk.term = term);
    }

    pub(crate) fn asked(&self) -> u64 {
        self.lock().asked
    }

    /// What may never happen, and did.
    pub(crate) fn wrong(&self) -> Vec<String> {
        self.lock().wrong.clone()
    }

    async fn connection(&self, own: &str, mut socket: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            let mut buffer = [0; 4096];
            let got = socket.read(&mut buffer).await?;
            if got == 0 {
                return Ok(());
            }
            head.extend_from_slice(&buffer[..got]);
        }
        let end = head.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
        let mut body = head.split_off(end);
        let head = String::from_utf8_lossy(&head).into_owned();
        let header = |name: &str| {
            let found =
                head.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case(name)));
            found.map(|(_, value)| value.trim().to_owned())
        };
        let length: usize = header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        while body.len() < length {
            let mut buffer = [0; 4096];
            let got = socket.read(&mut buffer).await?;
            if got == 0 {
                return Ok(());
            }
            body.extend_from_slice(&buffer[..got]);
        }
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
        let lie = {
            let mut shared = self.lock();
            shared.asked += 1;
            shared.disks[own].lie
        };
        match lie {
            Lie::Hangs => return std::future::pending().await,
            Lie::Dead => return Ok(()),
            _ => {}
        }
        let term = header("windlass-term").and_then(|term| term.parse().ok()).unwrap_or(0);
        let wanted = header("if-match").map(|tag| tag.trim_matches('"').to_owned());
        let mut answer = self.answer(own, &method, &path, &body, term, wanted.as_deref());
        if let Some(wait) = answer.wait {
            let clock = self.lock().clock.clone();
            let until = clock.monotonic() + wait;
            while clock.monotonic() < until && answer.wait.is_some() {
                clock.sleep(Duration::from_millis(10)).await;
                answer = self.answer(own, &method, &path, &body, term, wanted.as_deref());
            }
        }
        let listing = path.starts_with("/v2/inventory") || path == "/files";
        let mut declared = answer.body.len();
        let mut date = 0;
        match lie {
            Lie::Empty if listing => {
                answer.body = if path == "/files" { Vec::new() } else { end_line(0, 1 << 40).into_bytes() };
                declared = answer.body.len();
            }
            Lie::Cut if listing => answer.body.truncate(answer.body.len() / 2),
            Lie::Error if listing => (answer.status, answer.body, declared) = (500, Vec::new(), 0),
            Lie::Page if listing => {
                answer.body = b"<html>\n<body>sorry</body>\n</html>\n".to_vec();
                (answer.content_type, declared) = ("text/html", answer.body.len());
            }
            Lie::Yesterday if listing => {
                answer.body = self.lock().disks[own].yesterday.clone();
                (date, declared) = (-86_400, answer.body.len());
            }
            Lie::Clock => date = 86_400,
            _ => {}
        }
        let now = self.lock().clock.wall().as_second() + date;
        let now = jiff::Timestamp::from_second(now).unwrap().to_zoned(jiff::tz::TimeZone::UTC);
        let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT");
        let mut text = format!(
            "HTTP/1.1 {} x\r\nContent-Type: {}\r\nContent-Length: {declared}\r\nDate: {date}\r\nConnection: close\r\n",
            answer.status, answer.content_type
        );
        if let Some((tag, size)) = answer.file {
            text = text
                .replace(&format!("Content-Length: {declared}"), &format!("Content-Length: {size}\r\nETag: \"{tag}\""));
        }
        text.push_str("\r\n");
        socket.write_all(text.as_bytes()).await?;
        if lie == Lie::Slow && listing {
            let half = answer.body.len() / 2;
            socket.write_all(&answer.body[..half]).await?;
            return std::future::pending().await;
        }
        if method != "HEAD" {
            socket.write_all(&answer.body).await?;
        }
        socket.shutdown().await
    }

    fn answer(&self, own: &str, method: &str, path: &str, body: &[u8], term: u64, wanted: Option<&str>) -> Answer {
        let mut shared = self.lock();
        let shared = &mut *shared;
        let now = shared.clock.monotonic();
        let (route, query) = path.split_once('?').unwrap_or((path, ""));
        // Whoever only looks need not be of any term.
        let looks = term == 0 && ["GET", "HEAD"].contains(&method);
        if route.starts_with("/v2/") && !looks {
            let disk = shared.disks.get_mut(own).unwrap();
            if term < disk.term {
                return Answer::json(
                    409,
                    &json!({ "code": "stale_term", "message": "another controller acts by now" }),
                );
            }
            disk.term = term;
        }
        let name = |encoded: &str| Name::from_url(encoded).map(|name| name.as_bytes().to_vec()).unwrap_or_default();
        let parameter =
            |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned);
        match (method, route) {
            ("HEAD", "/hb") => Answer::new(200, "text/plain;charset=UTF-8", Vec::new()),
            ("GET", "/files") => {
                let files = shared.disks[own].files.keys();
                let body = files.flat_map(|name| name.iter().copied().chain([b'\n'])).collect();
                Answer::new(200, "text/plain;charset=UTF-8", body)
            }
            ("GET", "/df") => {
                let disk = &shared.disks[own];
                let (used, free) = (disk.used(), disk.total - disk.used());
                let text = json!({ "total_size": disk.total.to_string(), "used_size": used.to_string(),
                    "avail_size": free.to_string(), "used_percent": used * 100 / disk.total, "free_size": free.to_string() });
                Answer::json(200, &text)
            }
            ("GET", "/v2/node") => {
                let disk = &shared.disks[own];
                let (used, free) = (disk.used(), disk.total - disk.used());
                Answer::json(
                    200,
                    &json!({ "id": own, "base_dir": "/", "total": disk.total, "used": used, "avail": free,
                    "free": free, "used_percent": used * 100 / disk.total, "generation": disk.generation, "transfers": [],
                    "limits": { "bits_per_second": null, "max_concurrent": 1, "usage_limit_percent": 100 }, "version": "1" }),
                )
            }
            ("GET", "/v2/inventory") => {
                let body = shared.disks[own].inventory();
                Answer::new(200, "application/x-ndjson", body)
            }
            ("HEAD", route) if route.starts_with("/v2/files/") => {
                let disk = &shared.disks[own];
                match disk.files.get(&name(&route[10..])) {
                    None => Answer::json(404, &Value::Null),
                    Some((size, version)) => Answer {
                        file: Some((tag(*size, *version), *size)),
                        ..Answer::new(200, "application/octet-stream", Vec::new())
                    },
                }
            }
            ("DELETE", route) if route.starts_with("/v2/files/") || route.starts_with("/files/") => {
                let file = name(route.rsplit('/').next().unwrap_or_default());
                let disk = shared.disks.get_mut(own).unwrap();
                let Some((size, version)) = disk.files.get(&file) else { return Answer::json(404, &Value::Null) };
                if wanted.is_some_and(|wanted| wanted != tag(*size, *version)) {
                    return Answer::json(412, &Value::Null);
                }
                disk.files.remove(&file);
                disk.generation += 1;
                let text = String::from_utf8_lossy(&file).into_owned();
                shared.deletes.push(text.clone());
                if !shared.loses && !shared.disks.values().any(|disk| disk.files.contains_key(&file)) {
                    shared.wrong.push(format!("the last copy of {text} was deleted"));
                }
                Answer::json(if route.starts_with("/v2") { 204 } else { 200 }, &Value::Null)
            }
            ("PUT", route) if route.starts_with("/v2/transfers/") => {
                let id = route[14..].to_owned();
                let order: TransferOrder = serde_json::from_slice(body).unwrap();
                if let Some(there) = shared.disks[own].transfers.get(&id) {
                    if there.order != order {
                        return Answer::json(409, &json!({ "code": "other_order", "message": "x" }));
                    }
                } else {
                    shared.begin(own, id.clone(), order, now);
                }
                Answer::json(200, &shared.report(own, &id, now).unwrap())
            }
            ("GET", route) if route.starts_with("/v2/transfers/") => {
                let Some(report) = shared.report(own, &route[14..], now) else {
                    return Answer::json(404, &Value::Null);
                };
                let seen: u64 = parameter("seen").and_then(|seen| seen.parse().ok()).unwrap_or(0);
                let wait = parameter("wait").and_then(|wait| wait.parse().ok()).unwrap_or(0);
                let wait = (report["revision"].as_u64() <= Some(seen)).then_some(Duration::from_secs(wait));
                Answer { wait, ..Answer::json(200, &report) }
            }
            ("PATCH", route) if route.starts_with("/v2/transfers/") => {
                let patch: TransferPatch = serde_json::from_slice(body).unwrap();
                shared.paces.push(patch.bits_per_second);
                let Some(transfer) = shared.disks.get_mut(own).unwrap().transfers.get_mut(&route[14..]) else {
                    return Answer::json(404, &Value::Null);
                };
                // Without a limit it takes no time at all.
                if patch.bits_per_second.is_none() {
                    transfer.until = now;
                }
                shared.settle();
                Answer::json(200, &shared.report(own, &route[14..], now).unwrap())
            }
            ("DELETE", route) if route.starts_with("/v2/transfers/") => {
                if let Some(transfer) = shared.disks.get_mut(own).unwrap().transfers.get_mut(&route[14..])
                    && !transfer.done
                {
                    transfer.cancelled = true;
                }
                Answer::json(202, &Value::Null)
            }
            _ => Answer::json(404, &Value::Null),
        }
    }
}

/// The version of a file: each is younger than what the origin has.
fn tag(size: u64, version: u64) -> String {
    version_of(size, (1 << 62) + i128::from(version))
}

fn end_line(count: usize, generation: u64) -> String {
    format!("{{\"count\":{count},\"generation\":{generation},\"more\":false}}\n")
}

struct Answer {
    status: u16,
    content_type: &'static str,
    body: Vec<u8>,
    file: Option<(String, u64)>,
    wait: Option<Duration>,
}

impl Answer {
    fn new(status: u16, content_type: &'static str, body: Vec<u8>) -> Self {
        Self { status, content_type, body, file: None, wait: None }
    }

    fn json(status: u16, value: &Value) -> Self {
        let body = if status == 204 { Vec::new() } else { value.to_string().into_bytes() };
        Self::new(status, "application/json", body)
    }
}

impl Disk {
    fn used(&self) -> u64 {
        self.files.values().map(|(size, _)| size).sum()
    }

    fn add(&mut self, name: &[u8], size: u64) {
        self.generation += 1;
        self.files.insert(name.to_vec(), (size, self.generation));
    }

    fn inventory(&self) -> Vec<u8> {
        let mut body = String::new();
        for (name, (size, version)) in &self.files {
            let name = Name::new(name.clone()).unwrap().to_url();
            body.push_str(&format!(
                "{}\n",
                json!({ "name": name, "size": size, "mtime_ns": 1, "version": tag(*size, *version) })
            ));
        }
        body.push_str(&end_line(self.files.len(), self.generation));
        body.into_bytes()
    }
}

impl Shared {
    /// Ends what has come to its end.
    fn settle(&mut self) {
        let now = self.clock.monotonic();
        for (address, disk) in &mut self.disks {
            let mut came = Vec::new();
            for transfer in disk.transfers.values_mut().filter(|transfer| !transfer.cancelled && !transfer.done) {
                if now >= transfer.until {
                    transfer.done = true;
                    came.push((transfer.order.name.as_bytes().to_vec(), transfer.order.size));
                }
            }
            for (name, size) in came {
                disk.add(&name, size);
                if disk.used() > disk.total {
                    self.wrong.push(format!("{address} holds more than its disk"));
                }
            }
        }
    }

    fn begin(&mut self, own: &str, id: String, order: TransferOrder, now: Duration) {
        let source = match &order.source {
            Source::Url(url) => url.url.trim_start_matches("http://").to_owned(),
            _ => own.to_owned(),
        };
        let name = String::from_utf8_lossy(order.name.as_bytes()).into_owned();
        let running = |transfer: &&Transfer| !transfer.cancelled && !transfer.done;
        let all: Vec<&Transfer> =
            self.disks.values().flat_map(|disk| disk.transfers.values()).filter(running).collect();
        if all.iter().filter(|transfer| transfer.source == source).count() >= self.limit {
            self.wrong.push(format!("{source} serves more than {} at once", self.limit));
        }
        if all.iter().any(|transfer| transfer.order.name == order.name) {
            self.wrong.push(format!("{name} is copied twice at once"));
        }
        if self.disks[own].files.contains_key(order.name.as_bytes()) {
            self.wrong.push(format!("{name} is copied to {own}, which has it"));
        }
        self.copies.push(name);
        let until = now + self.takes;
        self.busy.push((source.clone(), now, until));
        let transfer = Transfer { order, source, from: now, until, cancelled: false, done: false };
        self.disks.get_mut(own).unwrap().transfers.insert(id, transfer);
        self.settle();
    }

    fn report(&self, own: &str, id: &str, now: Duration) -> Option<Value> {
        let transfer = self.disks[own].transfers.get(id)?;
        let size = transfer.order.size;
        let part = (now.saturating_sub(transfer.from)).as_secs_f64()
            / (transfer.until - transfer.from).as_secs_f64().max(1e-6);
        let bytes = if transfer.done { size } else { (size as f64 * part.min(1.0)) as u64 };
        let (state, revision) = match (transfer.cancelled, transfer.done) {
            (true, _) => ("cancelled", 3),
            (_, true) => ("done", 2),
            _ => ("running", 1),
        };
        let file = self.disks[own].files.get(transfer.order.name.as_bytes());
        let version = file.filter(|_| transfer.done).map(|(size, version)| tag(*size, *version));
        Some(
            json!({ "id": id, "name": transfer.order.name, "state": state, "bytes": bytes, "size": size, "revision": revision,
            "version": version }),
        )
    }
}
