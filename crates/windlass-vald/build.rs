//! Compiles `proto/` with a compiler written in Rust, so that building needs no system `protoc`.

use std::error::Error;

const FILES: [&str; 5] = [
    "google/rpc/status.proto",
    "payload/v1/payload.proto",
    "vald/v1/vald.proto",
    "core/v1/agent.proto",
    "discoverer/v1/discoverer.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        // The same keys come out in the same order, so that answers compare.
        .btree_map(".")
        .compile_fds(descriptors)?;
    for file in FILES {
        println!("cargo::rerun-if-changed=proto/{file}");
    }
    Ok(())
}
