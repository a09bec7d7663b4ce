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

use recipe::{CONTROL_PLANE, Module, Recipe};

pub(crate) use recipe::fingerprint;

/// Environment variable: a folder that holds all binaries; nothing is built then.
pub const FOLDER_VARIABLE: &str = "TENSILE_CONTROL_PLANE";

static OBTAINED: OnceCell<Binaries> = OnceCell::const_new();

/// etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl, kwok, kubelet, kube-proxy and helm,
/// and the manifests that belong to kwok.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// Folders of the modules that clusters need, in the order of [`CONTROL_PLANE`].
    folders: Arc<[PathBuf]>,
    /// The folder of the older minor, whose control plane takes the place of the current one.
    older: Option<PathBuf>,
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

    /// These, with the control plane of an older minor of Kubernetes; built within six minutes when asked for first.
    ///
    /// # Errors
    /// As [`Binaries::obtain`].
    pub async fn older(self) -> Result<Self> {
        let mut older = None;
        for name in recipe::OLDER {
            let path = extra(&format!("{}{name}", recipe::OLD)).await?;
            older = path.parent().map(Path::to_owned);
        }
        Ok(Self { older, ..self })
    }

    /// The path of one binary, such as `kubectl`.
    pub fn path(&self, name: &str) -> PathBuf {
        if let Some(older) = self.older.as_ref().filter(|_| recipe::OLDER.contains(&name)) {
            return older.join(format!("{}{name}", recipe::OLD));
        }
        let module = Recipe::named(name).map_or("", |recipe| recipe.module);
        self.folder(module).join(name)
    }

    /// The folder of kwok's manifests: `stages/<kind>/<set>/*.yaml`.
    pub fn kwok_manifests(&self) -> PathBuf {
        self.folder("tools").join(recipe::KWOK_MANIFESTS)
    }

    fn folder(&self, module: &str) -> &Path {
        let place = CONTROL_PLANE.iter().position(|name| *name == module);
        &self.folders[place.unwrap_or_default()]
    }

    fn find_or_build() -> Result<Self> {
        let folders = CONTROL_PLANE.iter().map(|name| {
            let module = Module::named(name).with_context(|| format!("there is no module {name}"))?;
            find_or_build(module, &module.recipes().collect::<Vec<_>>())
        });
        Ok(Self {
            folders: folders.collect::<Result<_>>()?,
            older: None,
        })
    }
}

/// The path of a binary that only some tests need: `metrics-server`, `coredns` or `old-kubectl` (of a minor that
/// speaks SPDY). It is built when it is first asked for, within three minutes.
///
/// # Errors
/// As [`Binaries::obtain`], and when there is no such binary.
pub async fn extra(name: &str) -> Result<PathBuf> {
    let recipe = Recipe::named(name).with_context(|| format!("there is no binary {name}"))?;
    let module =
        Module::named(recipe.module).with_context(|| format!("there is no module {}", recipe.module))?;
    let build = tokio::task::spawn_blocking(move || find_or_build(module, &[recipe]));
    let folder = build.await.context("the build task ended early")??;
    Ok(folder.join(recipe.name))
}

/// The folder with these binaries of a module: the user's, else that of the cache, where the missing are built.
fn find_or_build(module: &Module, recipes: &[&Recipe]) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE).filter(|folder| !folder.is_empty()) {
        return complete(Path::new(&folder), recipes);
    }
    let folder = cache_folder("control-plane")?.join(module.fingerprint());
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let _lock = lock(&folder.join("lock"))?;
    go::build_missing(&folder, module, recipes)?;
    complete(&folder, recipes)
}

fn complete(folder: &Path, recipes: &[&Recipe]) -> Result<PathBuf> {
    let manifests = recipes.iter().any(|recipe| recipe.name == "kwok");
    let names = recipes
        .iter()
        .map(|recipe| recipe.name)
        .chain(manifests.then_some(recipe::KWOK_MANIFESTS));
    let missing: Vec<_> = names.filter(|name| !folder.join(name).exists()).collect();
    if !missing.is_empty() {
        bail!(
            "{} lacks {}: add them, or unset {FOLDER_VARIABLE} to have all of them built from the Go modules",
            folder.display(),
            missing.join(", ")
        );
    }
    Ok(folder.to_owned())
}

/// `$XDG_CACHE_HOME/tensile/<kind>`, with `~/.cache` when the variable is not set.
pub(crate) fn cache_folder(kind: &str) -> Result<PathBuf> {
    let cache = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => Path::new(&home).join(".cache"),
        _ => bail!("no place for the cache of {kind}: set HOME or XDG_CACHE_HOME"),
    };
    Ok(cache.join("tensile").join(kind))
}

/// Takes the lock of a cache folder; it is released when the file is closed, also by a crash.
pub(crate) fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("waiting for another process that fills {}", path.display());
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
        let recipes: Vec<_> = Module::named("tools").unwrap().recipes().collect();
        for recipe in recipes.iter().filter(|recipe| recipe.name != "kwok") {
            fs::write(folder.join(recipe.name), "").unwrap();
        }
        let refusal = complete(&folder, &recipes).unwrap_err().to_string();
        fs::remove_dir_all(&folder).unwrap();
        assert!(refusal.contains("lacks kwok, kwok-manifests"), "{refusal}");
    }
}
