//! Compiles `proto/` with protox, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../../proto";
    println!("cargo:rerun-if-changed={root}");
    let protos = ["raft", "meta", "write", "store"].map(|name| format!("{root}/{name}.proto"));
    let files = protox::compile(protos, [root])?;
    // Payloads stay parts of the buffer that was received.
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
