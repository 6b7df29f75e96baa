//! Made-up worlds.
