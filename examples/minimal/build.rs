//! Links the kernel as a static ELF file at its physical address, for a target of Linux, for which there is a prebuilt `core`.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".into());
    println!("cargo:rerun-if-changed=src/link.ld");
    let script = format!("-Wl,-T,{here}/src/link.ld");
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", &script] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
