//! A thin client of the OpenStack services.
//!
//! * [`Site`] says where a cloud is and as whom to come; secrets are named, never written.
//! * [`Cloud`] signs in, keeps tokens per [`Scope`], renews them, finds endpoints in the catalogue, negotiates
//!   microversions, follows pages, and tells what went wrong as a [`CallFault`] that says whether anything can have
//!   been changed.
//! * [`Service`] names the services that are called.
//!
//! It repeats what changes nothing, and never what does: whoever makes the change decides.

mod bytes;
mod catalogue;
mod cloud;
mod fault;
mod secret;
mod site;
mod token;
mod version;

pub use bytes::Download;
pub use catalogue::Service;
pub use cloud::{Answer, Cloud, Scope};
pub use fault::{CallFault, Cause, Effectless};
pub use reqwest::{Body, Method};
pub use secret::Secret;
pub use site::{Credential, Site};
pub use version::Microversion;
