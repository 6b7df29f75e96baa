//! Plans over three agents with ten million copies on average, and prints one JSON document.
//!
//! `cargo run --release -p windlass-rebalance --example plan_three -- [copies of an agent] [folder]`
//!
//! The lists of copies are files as a scan writes them. Writing them is not part of the time; reading them, a few
//! times over, is. Two copies of each id; the agents have 13 : 10 : 7 of all.

use std::error::Error;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde_json::json;
use windlass_clock::SystemClock;
use windlass_index_backup::{CopiesReader, CopiesWriter, Copy};
use windlass_rebalance::calculate::{
    AgentIndex, AgentInput, BoxError, Chunk, ChunkSink, CopyEntry, CopyLists, FileScratch, Mode, PlanRequest,
    PlannedId, Reported, SortedCopies, plan,
};

/// Copies of every 15 ids on the three agents: 13, 10 and 7.
const OFF_ZERO: u64 = 2;
const OFF_ONE: u64 = 5;

/// The copies of one agent, in the file that a scan has written.
struct Files(Vec<PathBuf>);

struct OneFile {
    reader: CopiesReader,
    copy: Copy,
}

impl CopyLists for Files {
    fn open(&self, agent: AgentIndex) -> Result<Box<dyn SortedCopies + '_>, BoxError> {
        Ok(Box::new(OneFile { reader: CopiesReader::open(&self.0[agent.0])?, copy: Copy::default() }))
    }
}

impl SortedCopies for OneFile {
    fn next(&mut self, into: &mut CopyEntry) -> Result<bool, BoxError> {
        if !self.reader.next(&mut self.copy)? {
            return Ok(false);
        }
        std::mem::swap(&mut into.id, &mut self.copy.id);
        (into.time, into.number, into.invalid) = (self.copy.time, self.copy.number, self.copy.invalid);
        Ok(true)
    }
}

/// Counts the planned ids.
#[derive(Default)]
struct Count(u64);

impl ChunkSink for Count {
    fn begin(&mut self, _: &Chunk) -> Result<(), BoxError> {
        Ok(())
    }

    fn id(&mut self, _: PlannedId<'_>) -> Result<(), BoxError> {
        self.0 += 1;
        Ok(())
    }

    fn finish(&mut self) -> Result<Option<String>, BoxError> {
        Ok(None)
    }

    fn reported(&mut self, _: Reported, _: &[u8]) -> Result<(), BoxError> {
        Ok(())
    }
}

#[expect(clippy::print_stdout, reason = "the document is the program's output")]
fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let copies: u64 = arguments.next().map_or(Ok(10_000_000), |copies| copies.parse())?;
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(folder)?;
    println!("{}", measure(dir.path(), copies)?);
    Ok(())
}

fn measure(dir: &Path, copies: u64) -> Result<serde_json::Value, Box<dyn Error>> {
    let clock = SystemClock::real();
    let (lists, held) = write_lists(dir, copies * 3 / 2)?;
    let agents = (0..3).map(|agent| AgentInput::member(&format!("vald-agent-{agent}"))).collect();
    let request = PlanRequest { vector_bytes: 512, ..PlanRequest::new(agents, Mode::Deviation, 2) };
    let mut scratch = FileScratch::new(tempfile::tempfile_in(dir)?);
    let mut count = Count::default();
    let (began, cpu) = (clock.monotonic(), cpu_seconds());
    let planned = plan(&request, &lists, &mut scratch, &mut count, &mut |_| ControlFlow::Continue(()))?;
    let seconds = clock.monotonic().saturating_sub(began).as_secs_f64();
    let cpu = cpu_seconds() - cpu;
    Ok(json!({
        "agents": 3,
        "copies": held,
        "planned_ids": count.0,
        "chunks": planned.document.chunks.len(),
        "spread_before": planned.document.spread_before,
        "spread_predicted": planned.document.spread_predicted,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "copies_per_second": held as f64 / seconds,
        "planner_peak_mib": planned.peak_bytes as f64 / f64::from(1 << 20),
        "process_peak_mib": peak_mib(),
    }))
}

/// Writes the three lists: each of `ids` ids is on two agents. Returns how many copies there are.
fn write_lists(dir: &Path, ids: u64) -> Result<(Files, u64), Box<dyn Error>> {
    let (mut files, mut held) = (Vec::new(), 0);
    for agent in 0..3 {
        let path = dir.join(format!("{agent}.copies"));
        let mut list = CopiesWriter::create(&path)?;
        for number in (0..ids).filter(|number| holds(mix(*number) % 15, agent)) {
            // Ascending in the front, anything behind: as sorted UUIDs are.
            let (front, behind) = (number * 256, mix(number));
            let id = format!("{:08x}-{:04x}-4000-8000-{:012x}", front >> 8, behind >> 48, behind & 0xffff_ffff_ffff);
            list.push(
                id.as_bytes(),
                1_700_000_000_000_000_000 + i64::try_from(number)?,
                u32::try_from(number)?,
                false,
            )?;
        }
        held += list.finish()?;
        files.push(path);
    }
    Ok((Files(files), held))
}

/// Of each 15 ids, 2 are not on the first agent, 5 not on the second, 8 not on the third.
fn holds(of_15: u64, agent: usize) -> bool {
    match agent {
        0 => of_15 >= OFF_ZERO,
        1 => !(OFF_ZERO..OFF_ZERO + OFF_ONE).contains(&of_15),
        _ => of_15 < OFF_ZERO + OFF_ONE,
    }
}

/// Spreads numbers evenly (the finalizer of SplitMix64).
fn mix(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The most memory that this process has held, in MiB; 0 where the system does not tell.
fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// Processor time of this thread so far, on which the planner runs; 0 where the system does not tell.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}
