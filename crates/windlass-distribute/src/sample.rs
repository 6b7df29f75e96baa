//! Made-up worlds of any size, the same for the same seed: to measure with, and to play.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::json;
use windlass_clock::{Entropy, Seeded};

const LETTERS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// What a made-up world is like.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Equal seeds give equal worlds.
    pub seed: u64,
    /// Files of the catalogue.
    pub files: usize,
    /// Destinations.
    pub nodes: usize,
    /// The first so many of them are sources too.
    pub sources: usize,
    /// Share of the files that sit on a node.
    pub placed: f64,
    /// Share of the placed files that sit on two or three.
    pub duplicated: f64,
    /// Share of the placed files that the history places wrongly.
    pub drift: f64,
    /// Share of the files that the origin lacks.
    pub off_origin: f64,
    /// Share of further files that are on nodes and origin only.
    pub unknown: f64,
    /// Share of ads.
    pub ads: f64,
    /// Files that rise.
    pub rising: usize,
    /// Requests that make a file rise.
    pub hit_base: u32,
    /// Lines of the event log.
    pub log_lines: usize,
    /// Share of the nodes above their limit.
    pub full: f64,
    /// Their limit in percent.
    pub limit_percent: u32,
    /// The watched server.
    pub watch: String,
    /// Length of the window in seconds.
    pub window_sec: i64,
    /// The end of the window.
    pub now: i64,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            seed: 1,
            files: 10_000,
            nodes: 10,
            sources: 2,
            placed: 0.95,
            duplicated: 0.01,
            drift: 0.002,
            off_origin: 0.003,
            unknown: 0.001,
            ads: 0.01,
            rising: 50,
            hit_base: 5,
            log_lines: 20_000,
            full: 0.1,
            limit_percent: 90,
            watch: "10.99.0.3".to_owned(),
            window_sec: 600,
            now: 1_767_193_200,
        }
    }
}

/// What was made up.
#[derive(Clone, Debug, Default)]
pub struct Made {
    /// `ip:port`.
    pub destinations: Vec<String>,
    /// `ip:port`.
    pub sources: Vec<String>,
    /// Names of all files of the catalogue, best first.
    pub names: Vec<String>,
    /// Their sizes.
    pub sizes: Vec<u64>,
    /// Names of files that are on nodes and origin only.
    pub unknown: Vec<String>,
    /// By file: whether the origin has it.
    pub on_origin: Vec<bool>,
    /// By node: places in `names` of what it holds.
    pub holds: Vec<Vec<u32>>,
    /// By node: places in `unknown` of what it holds.
    pub holds_unknown: Vec<Vec<u32>>,
    /// By node: bytes in use and available.
    pub space: Vec<(u64, u64)>,
    /// Places in `names` of files that rise, with their requests.
    pub rising: Vec<(u32, u32)>,
}

struct Dice(Seeded);

impl Dice {
    fn below(&self, end: u64) -> u64 {
        // The bias is far below anything that matters here.
        self.0.next_u64() % end.max(1)
    }

    fn chance(&self, share: f64) -> bool {
        self.0.fraction() < share
    }

    fn between(&self, from: f64, to: f64) -> f64 {
        from + (to - from) * self.0.fraction()
    }

    fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// Normally distributed, mean 0, deviation 1.
    fn normal(&self) -> f64 {
        let (a, b) = (self.0.fraction().max(f64::MIN_POSITIVE), self.0.fraction());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }

    fn shuffle<T>(&self, rows: &mut [T]) {
        for at in (1..rows.len()).rev() {
            rows.swap(at, self.below(at as u64 + 1) as usize);
        }
    }
}

fn name(dice: &Dice, number: usize, ad: bool) -> String {
    let mut name = String::with_capacity(40);
    if ad {
        name.push_str(if dice.chance(0.5) { "M64" } else { "MN1" });
    } else {
        let first = b"0123ABCDEFGHIJKLPQRSTUVWXYZ";
        name.push('M');
        name.push(char::from(*dice.pick(first)));
        name.push(char::from(*dice.pick(LETTERS)));
    }
    for _ in 0..5 {
        name.push(char::from(*dice.pick(LETTERS)));
    }
    // The number makes every name a different one.
    let (year, month, day) = (10 + dice.below(17), 1 + dice.below(12), 1 + dice.below(28));
    let end = if dice.chance(0.97) { "mpg" } else { "MPG" };
    let tail = dice.below(1_000_000);
    let _ = write!(name, "SGL{number:08}_K20{year:02}{month:02}{day:02}{tail:06}.{end}");
    name
}

impl Sample {
    /// Makes the world up.
    #[must_use]
    pub fn make(&self) -> Made {
        let dice = Dice(Seeded::new(self.seed));
        let addr = |node: usize| format!("127.16.{}.{}:28888", node / 200 + 1, node % 200 + 1);
        let destinations: Vec<String> = (0..self.nodes).map(addr).collect();
        let mut made = Made {
            sources: destinations.iter().take(self.sources).cloned().collect(),
            destinations,
            names: (0..self.files).map(|number| name(&dice, number, dice.chance(self.ads))).collect(),
            // The median is about 650 MB.
            sizes: (0..self.files).map(|_| ((20.3 + 0.9 * dice.normal()).exp() as u64).max(6000)).collect(),
            on_origin: (0..self.files).map(|_| !dice.chance(self.off_origin)).collect(),
            holds: vec![Vec::new(); self.nodes],
            holds_unknown: vec![Vec::new(); self.nodes],
            ..Made::default()
        };
        let mut unplaced = Vec::new();
        for file in 0..u32::try_from(self.files).unwrap_or(u32::MAX) {
            if !dice.chance(self.placed) {
                unplaced.push(file);
                continue;
            }
            let copies = if dice.chance(self.duplicated) { *dice.pick(&[2, 2, 3]) } else { 1 };
            for _ in 0..copies {
                let node = &mut made.holds[dice.below(self.nodes as u64) as usize];
                if node.last() != Some(&file) {
                    node.push(file);
                }
            }
        }
        let unknown = (self.files as f64 * self.unknown) as usize;
        for number in 0..unknown {
            made.unknown.push(name(&dice, self.files + number, false));
            let node = dice.below(self.nodes as u64) as usize;
            made.holds_unknown[node].push(u32::try_from(number).unwrap_or(u32::MAX));
        }
        dice.shuffle(&mut unplaced);
        unplaced.retain(|file| made.on_origin[*file as usize]);
        let hits = |_| self.hit_base + (-12.0 * dice.0.fraction().max(f64::MIN_POSITIVE).ln()) as u32;
        made.rising = unplaced.iter().take(self.rising).map(|file| (*file, hits(()))).collect();
        let full = (self.nodes as f64 * self.full) as usize;
        let mut order: Vec<usize> = (0..self.nodes).collect();
        dice.shuffle(&mut order);
        made.space = vec![(0, 0); self.nodes];
        for (place, node) in order.into_iter().enumerate() {
            let used: u64 = made.holds[node].iter().map(|file| made.sizes[*file as usize]).sum();
            let used = used.max(1_000_000_000);
            let limit = f64::from(self.limit_percent);
            let percent = if place < full {
                dice.between(limit + 0.5, (limit + 6.0).min(99.0))
            } else {
                dice.between(40.0, limit - 2.0)
            };
            let size = (used as f64 / (percent / 100.0)) as u64;
            made.space[node] = (used, size - used);
        }
        made
    }

    /// Writes `.grade.info` and `.hitcount.history`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write_catalogue(&self, made: &Made, mut grades: impl Write, mut history: impl Write) -> io::Result<()> {
        let dice = Dice(Seeded::new(self.seed ^ 0x67_7261_6465));
        writeln!(grades, "filename\tweightcount\tbitrate\tgrade\tsumHitCount\thistoryCount\tTargetCopyCount")?;
        for (rank, name) in made.names.iter().enumerate() {
            let quantile = rank as f64 / made.names.len() as f64;
            let hits = (1600.0 * (1.0 - quantile).powi(6)) as u64;
            let (grade, weight) = ((quantile * 5.0) as u64, (hits as f64 * 2.67) as u64);
            writeln!(grades, "{name}\t{weight}\t6443017\t{}\t{hits}\t24\t{}", 1 + grade, 5 - grade)?;
        }
        writeln!(history, "historyheader:{}", self.now - 1800)?;
        let mut at: Vec<Vec<u16>> = vec![Vec::new(); made.names.len()];
        for (node, files) in made.holds.iter().enumerate() {
            for file in files {
                at[*file as usize].push(u16::try_from(node).unwrap_or(u16::MAX));
            }
        }
        let mut order: Vec<usize> = (0..made.names.len()).collect();
        dice.shuffle(&mut order);
        for file in order {
            let mut nodes = std::mem::take(&mut at[file]);
            if !nodes.is_empty() && dice.chance(self.drift) {
                let other = u16::try_from(dice.below(self.nodes as u64)).unwrap_or(0);
                match dice.below(3) {
                    0 => nodes.clear(),
                    1 => nodes = vec![other],
                    _ => nodes.push(other),
                }
            }
            let ip = |node: &u16| made.destinations[usize::from(*node)].split(':').next().unwrap_or_default();
            let ips: Vec<&str> = nodes.iter().map(ip).collect();
            let registered = self.now - 100_000 - dice.below(99_000_000) as i64;
            writeln!(
                history,
                "{},{registered},6443017,{},{},{},0,0,1={} {}",
                made.names[file],
                made.sizes[file],
                ips.join(" "),
                dice.below(3),
                dice.below(9),
                dice.below(9)
            )?;
        }
        Ok(())
    }

    /// Writes the event log of the day that `now` is in (UTC); requests of the day before are left out.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_log(&self, made: &Made, mut log: impl Write) -> io::Result<()> {
        let dice = Dice(Seeded::new(self.seed ^ 0x6c_6f67));
        let from = self.now - self.window_sec;
        let mut events: Vec<(i64, Option<&str>, u32)> = Vec::new();
        for (file, hits) in &made.rising {
            for _ in 0..*hits {
                events.push((from + dice.below(self.window_sec as u64) as i64, Some(&self.watch), *file));
            }
        }
        while events.len() < self.log_lines && !made.names.is_empty() {
            let file = (made.names.len() as f64 * dice.0.fraction().powi(3)) as u32;
            let server = if dice.chance(0.9) { dice.pick(&made.destinations).split(':').next() } else { None };
            events.push((from - 3600 + dice.below(3600 + self.window_sec as u64) as i64, server, file));
        }
        events.sort_unstable();
        let today = self.now - self.now.rem_euclid(86_400);
        for (time, server, file) in events.into_iter().filter(|(time, ..)| *time >= today) {
            let (name, id) = (&made.names[file as usize], dice.0.next_u64());
            let line = match server {
                Some(server) => format!(
                    "0x40ffff,1,{time},Server {server} Selected for Client StreamID : {id:016x}, ClientID : 0, \
                     GLB IP : 10.99.0.5's file({name}) Request"
                ),
                None => format!("0x40ffff,4,{time},File Not Found, UUID : {id:016x}, GLB IP : 10.99.0.6, {name}"),
            };
            writeln!(log, "{line}")?;
        }
        Ok(())
    }

    /// Writes the whole world into a folder: the load balancer's files, `names/ADDR.txt` with what each node holds,
    /// `origin.txt` and `nodes.json`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self, made: &Made, folder: &Path) -> io::Result<()> {
        let create = |name: &str| Ok::<_, io::Error>(BufWriter::new(File::create(folder.join(name))?));
        fs::create_dir_all(folder.join("names"))?;
        self.write_catalogue(made, create(".grade.info")?, create(".hitcount.history")?)?;
        let day = jiff::Timestamp::from_second(self.now).unwrap_or_default().strftime("%Y%m%d");
        self.write_log(made, create(&format!("EventLog[{day}].log"))?)?;
        let mut origin = create("origin.txt")?;
        for (name, _) in made.names.iter().zip(&made.on_origin).filter(|(_, on)| **on) {
            writeln!(origin, "{name}")?;
        }
        for name in &made.unknown {
            writeln!(origin, "{name}")?;
        }
        let mut nodes = Vec::new();
        for (node, addr) in made.destinations.iter().enumerate() {
            let path = format!("names/{}.txt", addr.replace(':', "_"));
            create(&path)?.write_all(&made.listing(node))?;
            let (used, avail) = made.space[node];
            let df = json!({ "total": used + avail, "used": used, "avail": avail });
            nodes.push(json!({ "addr": addr, "files_path": path, "df": df }));
        }
        serde_json::to_writer(create("nodes.json")?, &json!({ "nodes": nodes, "sources": made.sources }))?;
        Ok(())
    }
}

impl Made {
    /// What a node answers when it is asked for its files.
    #[must_use]
    pub fn listing(&self, node: usize) -> Vec<u8> {
        let known = self.holds[node].iter().map(|file| &self.names[*file as usize]);
        let unknown = self.holds_unknown[node].iter().map(|file| &self.unknown[*file as usize]);
        let mut names: Vec<&String> = known.chain(unknown).collect();
        names.sort_unstable();
        let mut body = Vec::with_capacity(40 * names.len());
        for name in names {
            body.extend_from_slice(name.as_bytes());
            body.push(b'\n');
        }
        body
    }
}
