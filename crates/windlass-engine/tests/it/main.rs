//! The engine on stores in memory and on disk, over a simulated world.

mod embedded;
mod jobs;
