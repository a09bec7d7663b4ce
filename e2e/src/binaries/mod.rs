//! Where the control-plane binaries come from: a folder that the user names, the cache, or a build.

mod go;
mod recipe;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use tokio::sync::OnceCell;

use recipe::RECIPES;

/// Environment variable: a folder that holds all binaries; nothing is built then.
pub const FOLDER_VARIABLE: &str = "TENSILE_CONTROL_PLANE";

static OBTAINED: OnceCell<Binaries> = OnceCell::const_new();

/// A folder with etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl, kwok, kubelet,
/// kube-proxy and helm, and the manifests that belong to kwok.
#[derive(Clone, Debug)]
pub struct Binaries {
    folder: Arc<Path>,
}

// === impl Binaries ===

impl Binaries {
    /// Finds the binaries, building those that are missing (about eight minutes once, on two cores).
    ///
    /// Several processes may call this at once: one builds, the others wait for it.
    ///
    /// # Errors
    /// A missing or old Go toolchain, a failed build, or a folder in [`FOLDER_VARIABLE`] that is not
    /// complete; the message names the remedy.
    pub async fn obtain() -> Result<Self> {
        let obtained = OBTAINED.get_or_try_init(|| async {
            tokio::task::spawn_blocking(Self::find_or_build)
                .await
                .context("the build task ended early")?
        });
        obtained.await.cloned()
    }

    /// The path of one binary, such as `kubectl`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder of kwok's manifests: `stages/<kind>/<set>/*.yaml`.
    pub fn kwok_manifests(&self) -> PathBuf {
        self.folder.join(recipe::KWOK_MANIFESTS)
    }

    fn find_or_build() -> Result<Self> {
        if let Some(folder) = std::env::var_os(FOLDER_VARIABLE).filter(|folder| !folder.is_empty()) {
            return Self::in_folder(Path::new(&folder));
        }
        let folder = cache_folder()?.join(recipe::fingerprint());
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let _lock = lock(&folder.join("lock"))?;
        go::build_missing(&folder)?;
        Self::in_folder(&folder)
    }

    fn in_folder(folder: &Path) -> Result<Self> {
        let complete = RECIPES
            .iter()
            .map(|recipe| recipe.name)
            .chain([recipe::KWOK_MANIFESTS]);
        let missing: Vec<_> = complete.filter(|name| !folder.join(name).exists()).collect();
        if !missing.is_empty() {
            bail!(
                "{} lacks {}: add them, or unset {FOLDER_VARIABLE} to have all of them built from the Go modules",
                folder.display(),
                missing.join(", ")
            );
        }
        Ok(Self {
            folder: folder.into(),
        })
    }
}

/// `$XDG_CACHE_HOME/tensile/control-plane`, with `~/.cache` when the variable is not set.
fn cache_folder() -> Result<PathBuf> {
    let cache = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => Path::new(&home).join(".cache"),
        _ => bail!("no place for built control planes: set HOME, XDG_CACHE_HOME or {FOLDER_VARIABLE}"),
    };
    Ok(cache.join("tensile/control-plane"))
}

/// Takes the lock of a cache folder; it is released when the file is closed, also by a crash.
fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("waiting for another process that builds the control planes");
        file.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incomplete_folder_is_refused_by_the_names_of_what_it_lacks() {
        let folder = std::env::temp_dir().join(format!("tensile-binaries-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for recipe in RECIPES.iter().filter(|recipe| recipe.name != "kwok") {
            fs::write(folder.join(recipe.name), "").unwrap();
        }
        let refusal = Binaries::in_folder(&folder).unwrap_err().to_string();
        fs::remove_dir_all(&folder).unwrap();
        assert!(refusal.contains("lacks kwok, kwok-manifests"), "{refusal}");
    }
}
