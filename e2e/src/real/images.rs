//! Container images made on the spot: no registry is needed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{availability::busybox, shell::run};

/// An image with Debian's static busybox: a shell and the usual tools. It is on every real node.
pub const BUSYBOX_IMAGE: &str = "tensile.local/busybox:1";

/// The image of the pods' sandboxes.
pub(super) const PAUSE_IMAGE: &str = "tensile.local/pause:1";

/// The pause program, which is compiled on the machine.
const PAUSE_SOURCE: &str = include_str!("pause.c");

/// Writes the archives of all images to `folder`; returns their paths.
pub(super) async fn build(folder: &Path) -> Result<Vec<PathBuf>> {
    let (pause, busybox) = tokio::try_join!(build_pause(folder), build_busybox(folder))?;
    Ok(vec![pause, busybox])
}

async fn build_pause(folder: &Path) -> Result<PathBuf> {
    let root = folder.join("pause");
    fs::create_dir_all(&root)?;
    let (source, program) = (folder.join("pause.c"), root.join("pause"));
    fs::write(&source, PAUSE_SOURCE)?;
    run(
        "cc",
        [
            "-Os".as_ref(),
            "-static".as_ref(),
            "-s".as_ref(),
            "-o".as_ref(),
            program.as_os_str(),
            source.as_ref(),
        ],
    )
    .await
    .context("the pause image needs a C compiler and a static libc (Debian: gcc libc6-dev)")?;
    archive(folder, "pause", PAUSE_IMAGE, &json!({"Entrypoint": ["/pause"]})).await
}

async fn build_busybox(folder: &Path) -> Result<PathBuf> {
    let root = folder.join("busybox");
    for directory in ["bin", "etc", "root", "tmp"] {
        fs::create_dir_all(root.join(directory))?;
    }
    let source = busybox()?;
    fs::copy(source, root.join("bin/busybox"))?;
    let applets = run(&source.display().to_string(), ["--list"]).await?;
    for applet in applets.lines().filter(|&applet| applet != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    archive(
        folder,
        "busybox",
        BUSYBOX_IMAGE,
        &json!({"Env": ["PATH=/bin"], "Cmd": ["sh"]}),
    )
    .await
}

/// Packs the files below `folder/name` as a docker archive with one layer.
async fn archive(folder: &Path, name: &str, image: &str, config: &Value) -> Result<PathBuf> {
    let stage = folder.join(format!("{name}-archive"));
    fs::create_dir_all(&stage)?;
    let layer = stage.join("layer.tar");
    tar(&layer, &folder.join(name), &["--owner=0", "--group=0"]).await?;
    let digest = run("sha256sum", [&layer]).await?;
    let digest = digest
        .split_whitespace()
        .next()
        .context("sha256sum printed nothing")?;
    fs::write(
        stage.join("config.json"),
        image_config(config, digest).to_string(),
    )?;
    let manifest = json!([{"Config": "config.json", "RepoTags": [image], "Layers": ["layer.tar"]}]);
    fs::write(stage.join("manifest.json"), manifest.to_string())?;
    let archive = folder.join(format!("{name}.tar"));
    tar(&archive, &stage, &[]).await?;
    Ok(archive)
}

async fn tar(archive: &Path, folder: &Path, options: &[&str]) -> Result<()> {
    let (archive, folder) = (archive.display().to_string(), folder.display().to_string());
    let args = ["--create", "--file", &archive, "--directory", &folder]
        .into_iter()
        .chain(options.iter().copied());
    run("tar", args.chain(["."])).await.map(drop)
}

fn image_config(config: &Value, layer_digest: &str) -> Value {
    json!({
        "architecture": architecture(),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
    })
}

/// The machine's architecture as images call it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_config_names_its_layer_by_digest() {
        let config = image_config(&json!({"Cmd": ["sh"]}), "abc");
        assert_eq!(config["rootfs"]["diff_ids"], json!(["sha256:abc"]));
        assert_eq!(config["config"]["Cmd"], json!(["sh"]));
    }
}
