//! Links the kernel as a static ELF file at its physical address, for the host target, for which stable Rust has a prebuilt `core`.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".into());
    println!("cargo:rerun-if-changed=link.ld");
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,norelro",
        "-Wl,-z,noexecstack",
        "-Wl,-z,max-page-size=4096",
        &format!("-Wl,-T,{here}/link.ld"),
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
