//! Microsoft's OpenVMM as the host: the environment variable `OPENVMM` names its binary.

use crate::tools;
use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// The host's address in the guest's network; files are served there.
pub const GATEWAY: &str = "10.0.0.1";
/// The name of the script that starts it, in the folder that is shared with the outer machine.
pub const SCRIPT: &str = "openvmm.sh";

/// Returns the binary that `OPENVMM` names.
pub fn binary() -> Result<PathBuf> {
    let Some(path) = std::env::var_os("OPENVMM").map(PathBuf::from) else {
        bail!(
            "set OPENVMM to the path of an OpenVMM binary: OPENVMM=~/openvmm/target/release/openvmm cargo xtask run --host openvmm"
        );
    };
    if !path.is_file() {
        bail!("OPENVMM is set to {}, which is not a file", path.display());
    }
    Ok(path)
}

/// A guest on OpenVMM.
pub struct Guest<'a> {
    pub kernel: &'a Path,
    pub command_line: &'a str,
    pub cpus: u16,
    pub memory: &'a str,
    /// Images, and whether they are read-only. Afterwards they contain what the guest wrote.
    pub disks: &'a [(&'a Path, bool)],
    pub has_network: bool,
    /// More options for OpenVMM's command line.
    pub more: &'a str,
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Writes a script to `folder`, which holds all files of the guest. It starts OpenVMM and returns its exit code. The images are
/// copied to a temporary folder and back, as OpenVMM cannot use images in a 9P share.
pub fn prepare(binary: &Path, folder: &Path, guest: &Guest<'_>) -> Result<()> {
    tools::copy_program(binary, folder)?;
    if let Some(name) = binary.file_name().filter(|name| *name != "openvmm") {
        fs::rename(folder.join(name), folder.join("openvmm"))?;
    }
    let mut words: Vec<String> = ["--hv", "--com1", "stderr", "-m", guest.memory].map(String::from).into();
    words.extend(["-p".into(), guest.cpus.to_string()]);
    words.extend(["--guest-shutdown-action", "exit:0", "--guest-reset-action", "exit:3"].map(String::from));
    words.extend(["--guest-crash-action", "exit:4"].map(String::from));
    let channels = guest.cpus.saturating_sub(1);
    words.extend(["--scsi-sub-channels".into(), channels.to_string()]);
    let (mut there, mut back) = (String::new(), String::new());
    for (number, (image, is_read_only)) in guest.disks.iter().enumerate() {
        let inside = format!("$work/{number}.img");
        there += &format!("cp {} \"{inside}\"\n", quoted(&image.display().to_string()));
        if !is_read_only {
            back += &format!("cp \"{inside}\" {}\n", quoted(&image.display().to_string()));
        }
        let option = if *is_read_only { ",ro" } else { "" };
        words.extend(["--disk".into(), format!("file:{inside}{option}")]);
    }
    if guest.has_network {
        words.extend(["--net", "consomme"].map(String::from));
    }
    words.extend(["--kernel".into(), guest.kernel.display().to_string()]);
    words.extend(["-c".into(), guest.command_line.into()]);
    words.extend(guest.more.split_whitespace().map(String::from));
    let words: Vec<String> = words.iter().map(|word| quoted(word).replace("$work", "'\"$work\"'")).collect();
    let here = quoted(&folder.display().to_string());
    // The guest's serial port is OpenVMM's standard error; its standard output is a prompt for commands.
    let start = format!(
        "LD_LIBRARY_PATH={here}/lib OPENVMM_LOG=off {here}/openvmm {} < \"$work/console\" 2>&1 > {here}/openvmm.log\n\
         echo $? > \"$work/code\"\n",
        words.join(" ")
    );
    fs::write(folder.join("start.sh"), start)?;
    // OpenVMM needs a terminal, even if it is not used.
    let script = format!(
        "export work=$(mktemp -d)\n{there}mkfifo \"$work/console\"\nsleep 3600 > \"$work/console\" &\n\
         if command -v script > /dev/null; then script -qec \"sh \"{here}/start.sh /dev/null\n\
         else setsid cttyhack sh {here}/start.sh; fi\n\
         code=$(cat \"$work/code\")\nkill $!\n{back}rm -r \"$work\"\nexit $code\n"
    );
    fs::write(folder.join(SCRIPT), script)?;
    Ok(())
}
