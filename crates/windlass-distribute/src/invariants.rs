//! What may never happen.
