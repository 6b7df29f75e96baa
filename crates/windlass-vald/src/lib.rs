//! Protocol messages and gRPC stubs of a Vald cluster, as far as moving vectors needs them.
//!
//! The `.proto` files in `proto/` are our own and hold only what is used; field numbers and types are the
//! protocol's. Fields and methods that are left out are skipped on the wire, as protobuf promises. Clients
//! are in the `…_client` modules, server traits (for stand-ins) in the `…_server` modules.
//!
//! | service | module | spoken by |
//! | --- | --- | --- |
//! | `vald.v1.Object` | [`object_client`], [`object_server`] | agents, gateway |
//! | `vald.v1.Insert` | [`insert_client`], [`insert_server`] | agents, gateway |
//! | `vald.v1.Update` | [`update_client`], [`update_server`] | agents, gateway |
//! | `vald.v1.Upsert` | [`upsert_client`], [`upsert_server`] | agents, gateway |
//! | `vald.v1.Remove` | [`remove_client`], [`remove_server`] | agents, gateway |
//! | `vald.v1.Flush` | [`flush_client`], [`flush_server`] | agents, gateway |
//! | `vald.v1.Index` | [`index_client`], [`index_server`] | agents, gateway |
//! | `core.v1.Agent` | [`agent_client`], [`agent_server`] | agents |
//! | `discoverer.v1.Discoverer` | [`discoverer_client`], [`discoverer_server`] | discoverer |
//!
//! # What came with which release
//!
//! | release | brought |
//! | --- | --- |
//! | 1.7.5 | a file of timestamps in backups |
//! | 1.7.7 | `timestamp` in [`object::Vector`], `StreamListObject` |
//! | 1.7.9 | `GetTimestamp` |
//! | 1.7.13 | the services `vald.v1.Flush` and `vald.v1.Index`; `IndexInfo` was a method of `core.v1.Agent` until then, with the same messages |
//! | 1.7.14 | `UpdateTimestamp` |
//!
//! Ask at the new place first and, on `UNIMPLEMENTED`, at the old one. An agent without a time in
//! [`object::Vector`] answers 0 there.
//!
//! # Sizes
//!
//! Agents take messages of up to 4 MiB unless they are set otherwise. A vector of dimension `d` takes about `4·d` bytes,
//! and a listing sends one vector a message; [`RECEIVE_LIMIT`] is what a client should accept.

/// The largest message a client should accept, in bytes (64 MiB).
pub const RECEIVE_LIMIT: usize = 64 << 20;

/// The port agents listen on unless they are set otherwise.
pub const AGENT_PORT: u16 = 8081;

/// The type URL of [`rpc::RequestInfo`] inside the details of an [`rpc::Status`].
pub const REQUEST_INFO_TYPE_URL: &str = "type.googleapis.com/google.rpc.RequestInfo";

/// What the compiler made of `proto/`; the names people use are re-exported one level up.
#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    rustdoc::all,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes,
    reason = "generated code"
)]
mod generated {
    pub mod google {
        pub mod rpc {
            include!(concat!(env!("OUT_DIR"), "/google.rpc.rs"));
        }
    }
    pub mod payload {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/payload.v1.rs"));
        }
    }
    pub mod vald {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/vald.v1.rs"));
        }
    }
    pub mod core {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/core.v1.rs"));
        }
    }
    pub mod discoverer {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/discoverer.v1.rs"));
        }
    }
}

pub use generated::core::v1::{agent_client, agent_server};
pub use generated::discoverer::v1::{discoverer_client, discoverer_server};
/// `google.rpc`: what went wrong with one element of a stream.
pub use generated::google::rpc;
pub use generated::payload::v1::{
    Empty, control, discoverer, filter, flush, info, insert, object, remove, update, upsert,
};
pub use generated::vald::v1::{
    flush_client, flush_server, index_client, index_server, insert_client, insert_server, object_client, object_server,
    remove_client, remove_server, update_client, update_server, upsert_client, upsert_server,
};

/// An [`rpc::Status`] for one element of a stream, with the element's id in its details.
#[must_use]
pub fn element_status(code: tonic::Code, message: impl Into<String>, id: impl Into<String>) -> rpc::Status {
    let about = rpc::RequestInfo { request_id: id.into(), serving_data: String::new() };
    rpc::Status {
        code: code as i32,
        message: message.into(),
        details: vec![prost_types::Any {
            type_url: REQUEST_INFO_TYPE_URL.into(),
            value: prost::Message::encode_to_vec(&about),
        }],
    }
}

/// The id that the details of `status` name, if they name one and it can be read.
#[must_use]
pub fn element_id(status: &rpc::Status) -> Option<String> {
    let about = status.details.iter().find(|detail| detail.type_url.ends_with("/google.rpc.RequestInfo"))?;
    let about: rpc::RequestInfo = prost::Message::decode(about.value.as_slice()).ok()?;
    Some(about.request_id)
}

#[cfg(test)]
mod tests;
