//! The messages against bytes from another protobuf compiler.

use std::fmt::Debug;

use prost::Message;

use crate::{control, element_id, element_status, info, insert, object, remove};

const ID: &str = "vec-0001";
const TIME: i64 = 1_700_000_000_000_000_000;
const VECTOR_BYTES: &str = "0a087665632d30303031 120c0000803f000000bf0000803e 188080a8b1e39fe7cb17";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().filter(|digit| !digit.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&String::from_iter(pair), 16).unwrap()).collect()
}

#[track_caller]
fn check<M: Message + Default + PartialEq + Debug>(message: &M, hex: &str) {
    assert_eq!(message.encode_to_vec(), bytes(hex));
    assert_eq!(M::decode(bytes(hex).as_slice()).unwrap(), *message);
}

fn vector() -> object::Vector {
    object::Vector { id: ID.into(), vector: vec![1.0, -0.5, 0.25], timestamp: TIME }
}

fn id() -> Option<object::Id> {
    Some(object::Id { id: ID.into() })
}

#[test]
fn a_vector_and_the_request_for_it_have_the_worked_bytes() {
    check(&object::VectorRequest { id: id(), filters: None }, "0a0a 0a087665632d30303031");
    check(&vector(), VECTOR_BYTES);
    check(&object::Timestamp { id: ID.into(), timestamp: TIME }, "0a087665632d30303031 108080a8b1e39fe7cb17");
}

#[test]
fn an_insert_carries_the_time_in_both_places() {
    let config = insert::Config { skip_strict_exist_check: true, filters: None, timestamp: TIME };
    check(
        &insert::Request { vector: Some(vector()), config: Some(config) },
        &format!("0a22 {VECTOR_BYTES} 120c 0801 188080a8b1e39fe7cb17"),
    );
}

#[test]
fn a_remove_leaves_field_two_unused() {
    let config = remove::Config { skip_strict_exist_check: true, timestamp: TIME };
    check(
        &remove::Request { id: id(), config: Some(config) },
        "0a0a 0a087665632d30303031 120c 0801 188080a8b1e39fe7cb17",
    );
}

#[test]
fn counts_and_details_have_the_worked_bytes() {
    check(&control::CreateIndexRequest { pool_size: 100 }, "0864");
    check(&info::index::Count { stored: 1000, uncommitted: 3, indexing: false, saving: true }, "08e807 1003 2001");
    let count = info::index::Count { stored: 1000, ..Default::default() };
    check(
        &info::index::Detail { counts: [("10.0.0.7:8081".into(), count)].into(), replica: 2, live_agents: 3 },
        "0a14 0a0d31302e302e302e373a38303831 120308e807 1002 1803",
    );
}

#[test]
fn fields_of_newer_releases_are_skipped() {
    // Field 15, a varint, that nobody knows.
    let newer = [bytes(VECTOR_BYTES), bytes("7805")].concat();
    assert_eq!(object::Vector::decode(newer.as_slice()).unwrap(), vector());
}

#[test]
fn the_status_of_a_stream_element_names_its_id() {
    let status = element_status(tonic::Code::NotFound, "no such vector", ID);
    assert_eq!(status.code, 5);
    assert_eq!(element_id(&status).as_deref(), Some(ID));
    assert_eq!(element_id(&crate::rpc::Status::default()), None);
}

#[test]
fn the_full_method_names_are_the_protocols() {
    use crate::{agent_server, discoverer_server, index_server, object_server};
    assert_eq!(object_server::SERVICE_NAME, "vald.v1.Object");
    assert_eq!(index_server::SERVICE_NAME, "vald.v1.Index");
    assert_eq!(agent_server::SERVICE_NAME, "core.v1.Agent");
    assert_eq!(discoverer_server::SERVICE_NAME, "discoverer.v1.Discoverer");
}
