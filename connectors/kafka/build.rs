//! Of every crate that is linked with librdkafka: gives calls of one of its functions to ours (`src/leaders.rs` says why).

fn main() {
    println!("cargo:rerun-if-changed=Cargo.toml");
    println!("cargo:rustc-link-arg=-Wl,--wrap=rd_kafkap_leader_discovery_set_topic");
    // Half a million addresses that the loader fills in at the start are then 0.2 MB of the program, not 11.
    println!("cargo:rustc-link-arg=-Wl,-z,pack-relative-relocs");
}
