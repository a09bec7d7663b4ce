//! Whether this machine can run real nodes, and what happens in tests when it cannot.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// Environment variable: a comma-separated list of what must be there, so that tests fail instead of not running.
const REQUIRE_VARIABLE: &str = "TENSILE_REQUIRE";

/// The word for real nodes in [`REQUIRE_VARIABLE`].
const REAL_NODES: &str = "real-nodes";

/// What the harness runs, and the Debian package that brings it.
const PROGRAMS: [(&str, &str); 10] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("sysctl", "procps"),
    ("cc", "gcc libc6-dev"),
    ("tar", "tar"),
    ("sha256sum", "coreutils"),
];

/// Where distributions and upstream put the CNI plugins.
const CNI_FOLDERS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// Where the statically linked busybox may be.
const BUSYBOXES: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

/// Says whether this machine can run real nodes.
///
/// # Errors
/// The reason why it cannot, with the remedy.
pub fn real_nodes_available() -> Result<(), String> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if !is_root {
        return Err("real nodes need root (network namespaces, mounts, cgroups)".to_owned());
    }
    if let Some((program, package)) = PROGRAMS
        .iter()
        .find(|(program, _)| find_program(program).is_none())
    {
        return Err(format!("real nodes need {program}: apt-get install {package}"));
    }
    cni_folder().map_err(|error| error.to_string())?;
    busybox().map_err(|error| error.to_string())?;
    let namespace = Command::new("unshare")
        .args(["--net", "true"])
        .stdin(Stdio::null())
        .output();
    match namespace {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "real nodes need the right to make network namespaces: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Err(format!("real nodes need unshare (package util-linux): {error}")),
    }
}

/// For the first line of a test: true when real nodes can run, else false after printing the reason.
///
/// # Errors
/// Real nodes cannot run although `TENSILE_REQUIRE` contains `real-nodes`.
pub fn real_nodes_or_report() -> Result<bool> {
    let Err(reason) = real_nodes_available() else {
        return Ok(true);
    };
    missing(REAL_NODES, &reason)
}

/// For the first line of a test that needs a program of a Debian package: true when it is there, else false after
/// printing the reason.
///
/// # Errors
/// It is not there although `TENSILE_REQUIRE` contains the package's name.
pub fn program_or_report(program: &str, package: &str) -> Result<bool> {
    if find_program(program).is_some() {
        return Ok(true);
    }
    missing(
        package,
        &format!("there is no {program}: apt-get install {package}"),
    )
}

/// What happens in a test for want of something: false after printing the reason.
///
/// # Errors
/// `TENSILE_REQUIRE` contains `word`.
pub(crate) fn missing(word: &str, reason: &str) -> Result<bool> {
    if is_required(&std::env::var(REQUIRE_VARIABLE).unwrap_or_default(), word) {
        bail!("{REQUIRE_VARIABLE} asks for {word}, but {reason}");
    }
    eprintln!("not run: {reason}");
    Ok(false)
}

fn is_required(list: &str, wanted: &str) -> bool {
    list.split(',').any(|word| word.trim() == wanted)
}

/// The folder of the CNI plugins.
pub(super) fn cni_folder() -> Result<&'static Path> {
    let found = CNI_FOLDERS
        .iter()
        .map(Path::new)
        .find(|folder| folder.join("bridge").exists());
    found.context("real nodes need the CNI plugins: apt-get install containernetworking-plugins")
}

/// The statically linked busybox.
pub(super) fn busybox() -> Result<&'static Path> {
    let found = BUSYBOXES.iter().map(Path::new).find(|path| path.exists());
    found.context("real nodes need a static busybox for their image: apt-get install busybox-static")
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_nodes_are_required_by_a_word_of_a_list() {
        let cases = [
            ("", false),
            ("real-nodes", true),
            ("x, real-nodes", true),
            ("unreal-nodes", false),
        ];
        for (list, expected) in cases {
            assert_eq!(is_required(list, REAL_NODES), expected, "{list}");
        }
    }

    #[test]
    fn a_program_is_looked_for_in_the_path() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-such-program"), None);
    }
}
