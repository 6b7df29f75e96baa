//! The simulation, the crash matrix, and the stand-ins.
mod simulation;
