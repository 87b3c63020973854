//! Passes on where the API's descriptors lie, which temporalio-protos has made: reflection shows them to clients.

fn main() {
    let path = std::env::var("DEP_TEMPORALIO_PROTOS_DESCRIPTOR_PATH");
    let path = path.expect("temporalio-protos tells where its descriptors are");
    println!("cargo:rustc-env=TEMPORAL_DESCRIPTORS={path}");
    println!("cargo:rerun-if-changed=build.rs");
}
