//! Links the kernel as a static ELF file at its physical address, for targets of Linux, for which there is a prebuilt `core`.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".into());
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    println!("cargo:rerun-if-changed=src");
    let script = format!("{here}/src/{arch}/link.ld");
    // The compiler of the machine links through the C compiler; that of another processor calls the linker itself.
    let is_native = arch == "x86_64";
    if is_native {
        for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
    let prefix = if is_native { "-Wl," } else { "" };
    for word in ["--build-id=none", "-T", &script] {
        println!("cargo:rustc-link-arg-bins={prefix}{word}");
    }
}
