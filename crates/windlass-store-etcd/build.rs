//! Compiles `proto/etcd.proto` with a compiler written in Rust, so that building needs no system `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(["etcd.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        // Values go through without a copy; keys become text anyway.
        .bytes(".etcdserverpb.KeyValue.value")
        .bytes(".etcdserverpb.PutRequest.value")
        .compile_fds(descriptors)?;
    println!("cargo::rerun-if-changed=proto/etcd.proto");
    Ok(())
}
