//! `cargo xtask bindgen`: generates Rust from the C headers of `bindings/hyperv`.

use crate::tools;
use anyhow::{Context, Result, bail};
use bindgen::callbacks::{
    DeriveInfo, EnumVariantValue, IntKind, ItemInfo, ItemKind, ParseCallbacks, TypeKind,
};
use std::cell::RefCell;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;

const HEADERS: &[&str] = &["tlfs", "vmbus", "ring", "dynmem", "storvsp", "netvsp", "rndis", "ic"];
/// The suffix of enumerations that become `bitflags!` types.
const FLAGS: &str = "_flags";
const GUID: &str = "VMBUS_GUID_";

/// Converts a name such as `hv_message_type` to `HvMessageType`.
fn camel(name: &str) -> String {
    let parts = name.split('_').filter(|part| !part.is_empty());
    parts.map(|part| part[..1].to_uppercase() + &part[1..]).collect()
}

/// Items that are generated here, as bindgen does not generate them in the form we need.
#[derive(Debug, Default)]
struct Seen {
    /// Enumeration, name, value.
    flags: Vec<(String, String, u64)>,
    guids: Vec<(String, String)>,
}

#[derive(Debug, Default)]
struct Callbacks(Rc<RefCell<Seen>>);

impl ParseCallbacks for Callbacks {
    fn item_name(&self, item: ItemInfo<'_>) -> Option<String> {
        let is_type = matches!(item.kind, ItemKind::Type);
        is_type.then(|| camel(item.name.trim_start_matches("enum_").trim_start_matches("struct_")))
    }

    fn enum_variant_name(
        &self,
        name: Option<&str>,
        variant: &str,
        value: EnumVariantValue,
    ) -> Option<String> {
        let name = name?.trim_start_matches("enum ");
        let prefix = name.to_uppercase() + "_";
        let short = variant.strip_prefix(&prefix).unwrap_or(variant).to_string();
        if name.ends_with(FLAGS) {
            let value = match value {
                EnumVariantValue::Signed(value) => value as u64,
                EnumVariantValue::Unsigned(value) => value,
                _ => return None,
            };
            let mut seen = self.0.borrow_mut();
            let entry = (name.to_string(), short.clone(), value);
            if !seen.flags.contains(&entry) {
                seen.flags.push(entry);
            }
        }
        Some(short)
    }

    fn int_macro(&self, _name: &str, value: i64) -> Option<IntKind> {
        Some(if u32::try_from(value).is_ok() { IntKind::U32 } else { IntKind::U64 })
    }

    fn str_macro(&self, name: &str, value: &[u8]) {
        if let Some(name) = name.strip_prefix(GUID) {
            self.0.borrow_mut().guids.push((name.into(), String::from_utf8_lossy(value).into_owned()));
        }
    }

    fn add_derives(&self, info: &DeriveInfo<'_>) -> Vec<String> {
        let mut derives = vec!["FromBytes", "IntoBytes", "KnownLayout", "Immutable"];
        if info.kind == TypeKind::Enum {
            derives.extend(["PartialOrd", "Ord"]);
        }
        derives.into_iter().map(String::from).collect()
    }
}

/// Parses the text of a GUID to the byte order of Windows.
fn guid(text: &str) -> Result<[u8; 16]> {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let value = u128::from_str_radix(&digits, 16).with_context(|| format!("{text} is not a GUID"))?;
    let mut bytes = value.to_be_bytes();
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Ok(bytes)
}

/// Runs bindgen on a header; `block` leaves out the enumerations that become flags.
fn parse(header: &str, block: bool) -> Result<(String, Seen)> {
    let folder = tools::root().join("bindings/hyperv");
    let seen = Rc::new(RefCell::new(Seen::default()));
    let mut builder = bindgen::Builder::default()
        .header(folder.join(format!("include/{header}.h")).display().to_string())
        .clang_args(["-std=c11", "-Wno-everything"])
        .allowlist_file(format!(".*/{header}\\.h"))
        .blocklist_item(format!("{GUID}.*"))
        .newtype_enum(".*")
        .prepend_enum_name(false)
        .derive_debug(true)
        .derive_eq(true)
        .derive_hash(true)
        .disable_header_comment()
        .use_core()
        .rustfmt_configuration_file(Some(tools::root().join("rustfmt.toml")))
        .parse_callbacks(Box::new(Callbacks(seen.clone())));
    if block {
        builder = builder.blocklist_type(format!("(enum_)?.*({FLAGS}|{})", "Flags"));
    }
    let text = builder.generate().with_context(|| format!("{header}.h"))?.to_string();
    let seen = seen.take();
    Ok((text, seen))
}

/// Returns the flags as `bitflags!` types.
fn flags(seen: &Seen, header: &str) -> Result<String> {
    let source = std::fs::read_to_string(tools::root().join(format!("bindings/hyperv/include/{header}.h")))?;
    let mut text = String::new();
    let mut names: Vec<&String> = seen.flags.iter().map(|(name, ..)| name).collect();
    names.dedup();
    for name in names {
        let head = format!("enum {name} : uint");
        let (before, after) = source.split_once(&head).with_context(|| format!("{header}.h: `{head}`"))?;
        let bits = after.split('_').next().context("a width")?;
        let comment = before.lines().rev().map_while(|line| line.strip_prefix("/// ")).collect::<Vec<_>>();
        writeln!(text, "bitflags::bitflags! {{")?;
        for line in comment.iter().rev() {
            writeln!(text, "    /// {line}")?;
        }
        writeln!(text, "    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]")?;
        writeln!(text, "    #[repr(transparent)]")?;
        writeln!(text, "    pub struct {}: u{bits} {{", camel(name))?;
        for (_, flag, value) in seen.flags.iter().filter(|(of, ..)| of == name) {
            writeln!(text, "        const {flag} = {value:#x};")?;
        }
        writeln!(text, "    }}\n}}")?;
    }
    Ok(text)
}

/// Generates all files: path and text of each.
fn generate() -> Result<Vec<(PathBuf, String)>> {
    need_libclang()?;
    let mut files = vec![];
    for header in HEADERS {
        let (_, seen) = parse(header, false)?;
        let (text, _) = parse(header, true)?;
        let mut all = format!("// Generated from include/{header}.h by `cargo xtask bindgen`.\n\n");
        if text.contains("IntoBytes") {
            all += "use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};\n\n";
        }
        all += &flags(&seen, header)?;
        for (name, value) in &seen.guids {
            writeln!(all, "/// `{value}`")?;
            writeln!(all, "pub const {name}: crate::Guid = crate::Guid({:#04x?});", guid(value)?)?;
        }
        all += &text;
        let path = tools::root().join(format!("bindings/hyperv/src/{header}.rs"));
        files.push((path, tools::rustfmt(&all)?));
    }
    Ok(files)
}

/// Returns whether a file is the library that bindgen loads: `libclang.so`, `libclang.so.1`, `libclang-14.so.1`; not `libclang-cpp`.
fn is_libclang(name: &str) -> bool {
    let rest = name.strip_prefix("libclang").unwrap_or_default();
    rest.starts_with(".so")
        || rest.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Installs libclang, with which bindgen reads headers, if it is missing.
fn need_libclang() -> Result<()> {
    let is_there = |folder: &Path| {
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        files.into_iter().any(|file| is_libclang(&file.file_name().to_string_lossy()))
    };
    let llvm =
        std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path().join("lib"));
    let known = ["/usr/lib/x86_64-linux-gnu".into(), "/usr/lib64".into(), "/usr/lib".into()];
    if std::env::var_os("LIBCLANG_PATH").is_some()
        || llvm.chain(known).any(|folder: PathBuf| is_there(&folder))
    {
        return Ok(());
    }
    if !tools::has("apt-get") {
        bail!("libclang is needed to read C headers: install it, or set LIBCLANG_PATH to its folder");
    }
    tools::install_newest("libclang1-")
}

/// Writes the bindings.
pub fn bindgen() -> Result<()> {
    for (path, text) in generate()? {
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

/// Fails if the bindings differ from what the headers generate.
pub fn check() -> Result<()> {
    println!("comparing the bindings with their headers");
    for (path, text) in generate()? {
        if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        bail!("{} differs from its header: run `cargo xtask bindgen`", path.display());
    }
    Ok(())
}
