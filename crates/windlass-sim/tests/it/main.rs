//! The simulation, the crash matrix, and the stand-ins.
mod matrix;
mod simulation;
