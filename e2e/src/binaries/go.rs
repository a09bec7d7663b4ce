//! Builds the missing binaries with the Go toolchain, one by one, and shows the progress.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::recipe::{KWOK_MANIFESTS, KWOK_MODULE, Module, Recipe};

/// The Go version that the modules ask for (their `go` lines).
const GO_VERSION: (u32, u32) = (1, 26);

/// The copy of a module that is built from, beside its binaries.
const MODULE_FOLDER: &str = "module";

/// How often a running build says that it is still running.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// What to do when Go is missing or old.
const GO_REMEDY: &str = "install Go 1.26 or newer (https://go.dev/dl), or set TENSILE_CONTROL_PLANE to a folder with \
     etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl, kwok, kubelet, kube-proxy and helm";

/// Builds what `folder` lacks of `recipes`, which are of `module`; an interrupted build goes on where it stopped.
pub(super) fn build_missing(folder: &Path, module: &Module, recipes: &[&Recipe]) -> Result<()> {
    let is_missing = |name: &str| !folder.join(name).exists();
    let missing: Vec<_> = recipes.iter().filter(|recipe| is_missing(recipe.name)).collect();
    let manifests = is_missing(KWOK_MANIFESTS) && recipes.iter().any(|recipe| recipe.name == "kwok");
    if missing.is_empty() && !manifests {
        return Ok(());
    }
    check_toolchain()?;
    write_module(folder, module)?;
    let started = Instant::now();
    for (number, recipe) in missing.iter().enumerate() {
        let progress = || {
            let elapsed = started.elapsed().as_secs();
            eprintln!(
                "building {} ({} of {} of {}, {}m{:02}s)",
                recipe.name,
                number + 1,
                missing.len(),
                module.name,
                elapsed / 60,
                elapsed % 60
            );
        };
        build(folder, module, recipe, progress)?;
    }
    if manifests {
        copy_kwok_manifests(folder)?;
    }
    Ok(())
}

fn check_toolchain() -> Result<()> {
    let output = Command::new("go")
        .arg("version")
        .env("GOTOOLCHAIN", "local")
        .output();
    let Ok(output) = output else {
        bail!("the control planes are built with Go, which is not installed: {GO_REMEDY}")
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match parse_version(&text) {
        Some(found) if found >= GO_VERSION => Ok(()),
        _ => bail!(
            "`go version` says {:?}, which is too old to build the control planes: {GO_REMEDY}",
            text.trim()
        ),
    }
}

/// `go version go1.26.8 linux/amd64` → (1, 26). A development version has no number and passes as newest.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let word = text.split_whitespace().nth(2)?;
    if word.starts_with("devel") {
        return Some((u32::MAX, 0));
    }
    let mut numbers = word.strip_prefix("go")?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Builds run on a copy of the module, so that Go never edits the source tree.
fn write_module(folder: &Path, module: &Module) -> Result<()> {
    let target = folder.join(MODULE_FOLDER);
    fs::create_dir_all(&target)?;
    fs::write(target.join("go.mod"), module.go_mod)?;
    fs::write(target.join("go.sum"), module.go_sum)?;
    for (path, text) in module.sources {
        let path = target.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&target))?;
        fs::write(path, text)?;
    }
    Ok(())
}

fn go(folder: &Path) -> Command {
    let mut command = Command::new("go");
    command
        .current_dir(folder.join(MODULE_FOLDER))
        .stdin(Stdio::null());
    command.envs([
        ("CGO_ENABLED", "0"),
        ("GOFLAGS", "-mod=mod"),
        ("GOWORK", "off"),
        ("GOTOOLCHAIN", "local"),
    ]);
    command
}

fn build(folder: &Path, module: &Module, recipe: &Recipe, progress: impl Fn()) -> Result<()> {
    let partial = folder.join(format!("{}.partial", recipe.name));
    let mut command = go(folder);
    command
        .args(["build", "-trimpath", "-ldflags", &module.linker_flags(), "-o"])
        .arg(&partial)
        .arg(recipe.package);
    let log = folder.join(format!("{}.log", recipe.name));
    let file = fs::File::create(&log)?;
    command.stdout(file.try_clone()?).stderr(file);
    progress();
    if !wait(command, &progress)? {
        bail!(
            "building {} failed; the end of {}:\n{}\nIf a module could not be downloaded, check GOPROXY and run again; \
             what is built already is kept. Or {GO_REMEDY}",
            recipe.name,
            log.display(),
            tail(&log)
        );
    }
    fs::rename(&partial, folder.join(recipe.name))?;
    fs::remove_file(log)?;
    Ok(())
}

/// Waits for a command, calling `progress` now and then; says whether it succeeded.
fn wait(mut command: Command, progress: &impl Fn()) -> Result<bool> {
    let (finished, is_finished) = channel();
    let waiter = std::thread::spawn(move || {
        let status = command.status();
        // Nobody listens only when the waiting side has failed already.
        let _ = finished.send(status);
    });
    let status = loop {
        match is_finished.recv_timeout(PROGRESS_INTERVAL) {
            Ok(status) => break status,
            Err(RecvTimeoutError::Timeout) => progress(),
            Err(RecvTimeoutError::Disconnected) => bail!("the thread that ran the Go toolchain ended early"),
        }
    };
    if waiter.join().is_err() {
        bail!("the thread that ran the Go toolchain panicked");
    }
    Ok(status.context("cannot run the Go toolchain")?.success())
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Takes kwok's stages, which say what happens to simulated nodes and pods, out of its module.
fn copy_kwok_manifests(folder: &Path) -> Result<()> {
    let listed = go(folder)
        .args(["list", "-m", "-f", "{{.Dir}}", KWOK_MODULE])
        .output()?;
    let module = PathBuf::from(String::from_utf8_lossy(&listed.stdout).trim());
    if !listed.status.success() || !module.is_dir() {
        bail!(
            "`go list` did not find {KWOK_MODULE}: {}",
            String::from_utf8_lossy(&listed.stderr).trim()
        );
    }
    let partial = folder.join(format!("{KWOK_MANIFESTS}.partial"));
    for set in [
        "node/fast",
        "node/heartbeat-with-lease",
        "pod/fast",
        "pod/general",
    ] {
        copy_yaml(
            &module.join("kustomize/stage").join(set),
            &partial.join("stages").join(set),
        )?;
    }
    fs::rename(partial, folder.join(KWOK_MANIFESTS))?;
    Ok(())
}

/// Copies the manifests of one folder. Their kustomizations only list the files, so they are left behind.
fn copy_yaml(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.extension().is_some_and(|extension| extension == "yaml") && name != "kustomization.yaml" {
            // Files of the module cache are read-only; the copies need not be.
            fs::write(to.join(name), fs::read(&path)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions_are_compared_as_numbers() {
        let cases = [
            ("go version go1.26.8 linux/amd64", Some((1, 26))),
            ("go version go1.9 linux/amd64", Some((1, 9))),
            ("go version go1.27rc1 linux/amd64", Some((1, 27))),
            ("go version devel +abc linux/amd64", Some((u32::MAX, 0))),
            ("sh: go: not found", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_version(text), expected, "{text}");
        }
        assert!(parse_version("go version go1.9 linux/amd64").unwrap() < GO_VERSION);
    }

    #[test]
    fn a_failed_build_shows_the_end_of_its_log_and_the_remedy() {
        let folder = std::env::temp_dir().join(format!("tensile-go-{}", std::process::id()));
        let module = Module::named("tools").unwrap();
        write_module(&folder, module).unwrap();
        let recipe = Recipe {
            name: "nothing",
            package: "example.invalid/nothing",
            module: "tools",
        };
        let failure = build(&folder, module, &recipe, || ()).unwrap_err().to_string();
        fs::remove_dir_all(&folder).unwrap();
        assert!(
            failure.contains("example.invalid/nothing") && failure.contains("TENSILE_CONTROL_PLANE"),
            "{failure}"
        );
    }
}
