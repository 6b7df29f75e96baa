//! Crash points.
