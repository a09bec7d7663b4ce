//! The images: made by buildah from the repository's own Dockerfile, on a base of Debian's libc.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::{Binaries, Cluster};
use tokio::process::Command;

/// Tensile, in two versions that differ by name only; the first is the chart's own.
pub(crate) const REPOSITORY: &str = "tensile.local/tensile";
pub(crate) const TAGS: [&str; 2] = ["0.1.0", "0.2.0"];
/// kube-scheduler of the harness.
pub(crate) const SCHEDULER: &str = "tensile.local/kube-scheduler:1";

const BASE: &str = "localhost/tensile-base:1";
/// Debian's packages that the base is made of, as they are installed here: the binaries were linked against these.
const PACKAGES: [&str; 2] = ["libc6", "libgcc-s1"];
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// What the image's binaries are called.
const NAMES: [&str; 5] = [
    "tensile-virtual-node",
    "tensile-webhook",
    "tensile-scheduler-extender",
    "tensile-descheduler",
    "kubectl-tensile",
];
const BASE_DOCKERFILE: &str = "FROM scratch\nCOPY base/ /\n";
const SCHEDULER_DOCKERFILE: &str =
    "ARG BASE\nFROM ${BASE}\nENV PATH=/usr/local/bin\nCOPY scheduler/ /usr/local/bin/\nUSER 65532:65532\n";
/// Nothing is signed, and nothing is pulled.
const POLICY: &str = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;

/// A folder with the release binaries, as `just image-check` gives it; without it, the image holds what the tests were
/// built with, and its size says nothing.
const BINARIES_VARIABLE: &str = "TENSILE_IMAGE_BINARIES";
/// Most bytes that a node pulls, compressed, for an image with release binaries.
const LARGEST: u64 = 60_000_000;

/// The archives of all images, as containerd imports them.
pub(crate) struct Images {
    archives: Vec<PathBuf>,
}

/// A folder with buildah's storage and the build context.
struct Builder {
    folder: PathBuf,
}

// === impl Images ===

impl Images {
    /// Builds all images in `folder`; Tensile's twice, since the second must be the same to the bit.
    pub(crate) async fn build(folder: PathBuf) -> Result<Self> {
        let builder = Builder { folder };
        let binaries = std::env::var_os(BINARIES_VARIABLE).map(PathBuf::from);
        builder.lay_out(binaries.as_deref()).await?;
        let tensile = format!("{REPOSITORY}:{}", TAGS[0]);
        let (first, again) = (builder.tensile(&tensile).await?, builder.tensile("again").await?);
        ensure!(first == again, "two builds differ: {first}, {again}");
        builder.build(SCHEDULER, "scheduler.Dockerfile".as_ref()).await?;
        let archives = [
            builder.archive(&tensile, "tensile.tar").await?,
            builder.archive(SCHEDULER, "scheduler.tar").await?,
        ];
        let unpacked = fs::metadata(&archives[0])?.len();
        println!("{tensile}: {first}, {unpacked} bytes unpacked");
        if binaries.is_some() {
            run("gzip", &["--keep", &archives[0].to_string_lossy()]).await?;
            let pulled = fs::metadata(archives[0].with_extension("tar.gz"))?.len();
            println!("{pulled} bytes compressed");
            ensure!(pulled < LARGEST, "the image has {pulled} bytes");
        }
        Ok(Self {
            archives: archives.into(),
        })
    }

    /// Gives the images to the cluster's node, and Tensile's under its second tag too.
    pub(crate) async fn import(&self, cluster: &Cluster) -> Result<()> {
        let socket = cluster.folder().join("containerd.sock").display().to_string();
        let ctr = ["--address", &socket, "--namespace", "k8s.io", "images"];
        for archive in &self.archives {
            let archive = archive.display().to_string();
            run("ctr", &[&ctr[..], &["import", &archive]].concat()).await?;
        }
        let [first, second] = TAGS.map(|tag| format!("{REPOSITORY}:{tag}"));
        run("ctr", &[&ctr[..], &["tag", &first, &second]].concat()).await
    }
}

// === impl Builder ===

impl Builder {
    /// Writes what the Dockerfiles copy.
    async fn lay_out(&self, release: Option<&Path>) -> Result<()> {
        let (base, binaries) = (self.folder.join("base"), self.folder.join("binaries"));
        let scheduler = self.folder.join("scheduler");
        for folder in [&base, &binaries, &scheduler] {
            fs::create_dir_all(folder)?;
        }
        copy_packages(&base).await?;
        match release {
            Some(release) => copy_release(release, &binaries)?,
            None => link_component(&binaries).await?,
        }
        fs::copy(
            Binaries::obtain().await?.path("kube-scheduler"),
            scheduler.join("kube-scheduler"),
        )?;
        fs::write(self.folder.join("base.Dockerfile"), BASE_DOCKERFILE)?;
        fs::write(self.folder.join("scheduler.Dockerfile"), SCHEDULER_DOCKERFILE)?;
        fs::write(self.folder.join("policy.json"), POLICY)?;
        Ok(())
    }

    /// The base and Tensile on it; the digest of the image's configuration, which names the content of every layer.
    async fn tensile(&self, name: &str) -> Result<String> {
        self.build(BASE, "base.Dockerfile".as_ref()).await?;
        let dockerfile = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Dockerfile");
        self.build(name, &dockerfile).await
    }

    /// As `just image` calls it: with no time of its own in it. Returns the image's digest.
    async fn build(&self, image: &str, dockerfile: &Path) -> Result<String> {
        let dockerfile = dockerfile.display().to_string();
        let base = format!("BASE={BASE}");
        let args = [
            "bud",
            "--timestamp=0",
            "--iidfile=digest",
            "--signature-policy",
            "policy.json",
            "--pull-never",
            "--build-arg",
            &base,
            "--build-arg",
            "BINARIES=binaries",
            "--tag",
            image,
            "--file",
            &dockerfile,
            ".",
        ];
        self.buildah(&args).await?;
        Ok(fs::read_to_string(self.folder.join("digest"))?)
    }

    async fn archive(&self, image: &str, name: &str) -> Result<PathBuf> {
        let target = format!("docker-archive:{name}:{image}");
        self.buildah(&["push", "--signature-policy", "policy.json", image, &target])
            .await?;
        Ok(self.folder.join(name))
    }

    /// vfs and chroot need nothing of the kernel that a container may lack.
    async fn buildah(&self, args: &[&str]) -> Result<()> {
        let storage = ["--storage-driver", "vfs", "--root", "storage", "--runroot", "run"];
        let folder = |name: &str| self.folder.join(name).display().to_string();
        let (root, run_root) = (folder("storage"), folder("run"));
        let mut command = Command::new("buildah");
        command
            .args([storage[0], storage[1], storage[2], &root, storage[4], &run_root])
            .args(args)
            .env("BUILDAH_ISOLATION", "chroot")
            .current_dir(&self.folder);
        finish(command).await
    }
}

/// What the tests were built with, under all names.
async fn link_component(binaries: &Path) -> Result<()> {
    let program = binaries.join("tensile-component");
    let built = env!("CARGO_BIN_EXE_tensile-component");
    run("strip", &["-o", &program.to_string_lossy(), built]).await?;
    for name in NAMES {
        std::os::unix::fs::symlink("tensile-component", binaries.join(name))?;
    }
    Ok(())
}

fn copy_release(release: &Path, binaries: &Path) -> Result<()> {
    for name in NAMES {
        let from = release.join(name);
        fs::copy(&from, binaries.join(name)).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

/// Copies the shared libraries of [`PACKAGES`], and the certificates of public authorities.
async fn copy_packages(root: &Path) -> Result<()> {
    let listed = Command::new("dpkg")
        .arg("--listfiles")
        .args(PACKAGES)
        .output()
        .await?;
    let listed = String::from_utf8(listed.stdout)?;
    let is_library = |path: &&str| path.contains(".so") && !path.contains("/gconv/") && !path.ends_with(".d");
    let files = listed
        .lines()
        .filter(is_library)
        .filter(|path| !Path::new(path).is_dir());
    let files: Vec<&str> = files
        .chain([CERTIFICATES])
        .map(|path| path.trim_start_matches('/'))
        .collect();
    ensure!(files.len() > 5, "dpkg lists no libraries of {PACKAGES:?}");
    let archive = root.with_extension("tar").display().to_string();
    let pack = ["--create", "--directory=/", "--file", &archive];
    run("tar", &[&pack[..], &files].concat()).await?;
    let root = root.display().to_string();
    run("tar", &["--extract", "--directory", &root, "--file", &archive]).await
}

async fn run(program: &str, args: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(args);
    finish(command).await
}

async fn finish(mut command: Command) -> Result<()> {
    let output = command
        .output()
        .await
        .with_context(|| format!("cannot run {command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?}: {}: {errors}",
        output.status
    );
    Ok(())
}
