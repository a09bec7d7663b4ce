//! What is built, from which package, with which flags.

/// The Go modules, embedded so that a built test binary does not need the source tree. The first two are all that
/// clusters are made of; the others are built when a test asks for them.
pub(super) const MODULES: [Module; 5] = [
    Module {
        name: "kubernetes",
        go_mod: include_str!("../../control-plane/kubernetes/go.mod"),
        go_sum: include_str!("../../control-plane/kubernetes/go.sum"),
        sources: &[],
    },
    Module {
        name: "tools",
        go_mod: include_str!("../../control-plane/tools/go.mod"),
        go_sum: include_str!("../../control-plane/tools/go.sum"),
        sources: &[],
    },
    Module {
        name: "extras",
        go_mod: include_str!("../../control-plane/extras/go.mod"),
        go_sum: include_str!("../../control-plane/extras/go.sum"),
        sources: &[(
            "coredns/main.go",
            include_str!("../../control-plane/extras/coredns/main.go"),
        )],
    },
    Module {
        name: "old-kubernetes",
        go_mod: include_str!("../../control-plane/old-kubernetes/go.mod"),
        go_sum: include_str!("../../control-plane/old-kubernetes/go.sum"),
        sources: &[],
    },
    Module {
        name: "old-kubectl",
        go_mod: include_str!("../../control-plane/old-kubectl/go.mod"),
        go_sum: include_str!("../../control-plane/old-kubectl/go.sum"),
        sources: &[],
    },
];

/// Modules that every cluster needs.
pub(super) const CONTROL_PLANE: [&str; 2] = ["kubernetes", "tools"];

/// What clusters of an older minor have of their own; built with the prefix [`OLD`].
pub(super) const OLDER: [&str; 3] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"];
/// Prefix of binaries of older minors.
pub(super) const OLD: &str = "old-";

/// Every binary, in the order of building.
pub(super) const RECIPES: [Recipe; 15] = [
    Recipe::new("tools", "etcd", "go.etcd.io/etcd/server/v3"),
    Recipe::new(
        "kubernetes",
        "kube-apiserver",
        "k8s.io/kubernetes/cmd/kube-apiserver",
    ),
    Recipe::new(
        "kubernetes",
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
    Recipe::new(
        "kubernetes",
        "kube-scheduler",
        "k8s.io/kubernetes/cmd/kube-scheduler",
    ),
    Recipe::new("kubernetes", "kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    Recipe::new("tools", "kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    Recipe::new("kubernetes", "kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    Recipe::new("kubernetes", "kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    Recipe::new("tools", "helm", "helm.sh/helm/v4/cmd/helm"),
    Recipe::new(
        "extras",
        "metrics-server",
        "sigs.k8s.io/metrics-server/cmd/metrics-server",
    ),
    Recipe::new(
        "extras",
        "coredns",
        "tensile.dev/e2e/control-plane/extras/coredns",
    ),
    Recipe::new("old-kubectl", "old-kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    Recipe::new(
        "old-kubernetes",
        "old-kube-apiserver",
        "k8s.io/kubernetes/cmd/kube-apiserver",
    ),
    Recipe::new(
        "old-kubernetes",
        "old-kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
    Recipe::new(
        "old-kubernetes",
        "old-kube-scheduler",
        "k8s.io/kubernetes/cmd/kube-scheduler",
    ),
];

/// Go module path of kwok, whose manifests are copied out of the module.
pub(super) const KWOK_MODULE: &str = "sigs.k8s.io/kwok";

/// Name of the folder with kwok's manifests, beside the binaries.
pub(super) const KWOK_MANIFESTS: &str = "kwok-manifests";

/// Raised when flags or contents change while the go.sum files do not.
const RECIPE_VERSION: &str = "1";

/// Packages that hold the version which Kubernetes binaries report.
const VERSION_PACKAGES: [&str; 2] = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"];

/// One main module of ours: requirements, and code only where a program must be put together.
pub(super) struct Module {
    pub(super) name: &'static str,
    pub(super) go_mod: &'static str,
    pub(super) go_sum: &'static str,
    /// Files, by their path in the module.
    pub(super) sources: &'static [(&'static str, &'static str)],
}

/// One binary.
pub(super) struct Recipe {
    pub(super) name: &'static str,
    pub(super) package: &'static str,
    pub(super) module: &'static str,
}

// === impl Module ===

impl Module {
    /// The module called `name`.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        MODULES.iter().find(|module| module.name == name)
    }

    /// Its binaries.
    pub(super) fn recipes(&self) -> impl Iterator<Item = &'static Recipe> {
        let name = self.name;
        RECIPES.iter().filter(move |recipe| recipe.module == name)
    }

    /// Names the folder of its binaries.
    pub(super) fn fingerprint(&self) -> String {
        let sources = self.sources.iter().map(|(_, text)| *text);
        fingerprint(
            self.name,
            [self.go_sum, RECIPE_VERSION].into_iter().chain(sources),
        )
    }

    /// The version of Kubernetes that it requires, such as `1.36.3`.
    fn kubernetes_version(&self) -> Option<&'static str> {
        let mut lines = self.go_mod.lines();
        lines.find_map(|line| {
            let required = line.trim().trim_start_matches("require ");
            required
                .strip_prefix("k8s.io/kubernetes v")?
                .split_whitespace()
                .next()
        })
    }

    /// Linker flags: no debug information, and for Kubernetes the version that clients parse.
    pub(super) fn linker_flags(&self) -> String {
        self.kubernetes_version()
            .map_or("-s -w".to_owned(), kubernetes_linker_flags)
    }
}

// === impl Recipe ===

impl Recipe {
    const fn new(module: &'static str, name: &'static str, package: &'static str) -> Self {
        Self {
            name,
            package,
            module,
        }
    }

    /// The binary called `name`.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        RECIPES.iter().find(|recipe| recipe.name == name)
    }
}

/// Names a folder of the cache: a hash (FNV-1a, 64 bits) of all that decides what is in it.
pub(crate) fn fingerprint<'a>(name: &str, inputs: impl IntoIterator<Item = &'a str>) -> String {
    let bytes = inputs.into_iter().flat_map(str::bytes);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{name}-{hash:016x}")
}

fn kubernetes_linker_flags(version: &str) -> String {
    let mut parts = version.split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let fields = [
        ("gitVersion", format!("v{version}")),
        ("gitMajor", major.to_owned()),
        ("gitMinor", minor.to_owned()),
        ("gitCommit", "0".repeat(40)),
        ("gitTreeState", "clean".to_owned()),
        ("buildDate", "1970-01-01T00:00:00Z".to_owned()),
    ];
    VERSION_PACKAGES
        .iter()
        .flat_map(|package| fields.iter().map(move |field| (package, field)))
        .fold("-s -w".to_owned(), |flags, (package, (name, value))| {
            format!("{flags} -X {package}.{name}={value}")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_binaries_report_the_version_of_their_module() {
        for (module, minor) in [
            ("kubernetes", "1.36."),
            ("old-kubernetes", "1.33."),
            ("old-kubectl", "1.29."),
        ] {
            let flags = Module::named(module).unwrap().linker_flags();
            for package in VERSION_PACKAGES {
                assert!(
                    flags.contains(&format!("-X {package}.gitVersion=v{minor}")),
                    "{flags}"
                );
            }
        }
        assert_eq!(Module::named("tools").unwrap().linker_flags(), "-s -w");
    }

    #[test]
    fn every_recipe_is_a_tool_or_a_source_of_its_module() {
        for recipe in &RECIPES {
            let module = Module::named(recipe.module).unwrap();
            let own = module.sources.iter().any(|(path, _)| {
                recipe
                    .package
                    .ends_with(path.split('/').next().unwrap_or_default())
            });
            assert!(
                own || module.go_mod.contains(recipe.package),
                "{} is not in {}",
                recipe.package,
                recipe.module
            );
        }
    }

    #[test]
    fn modules_have_folders_of_their_own() {
        let mut folders: Vec<_> = MODULES.iter().map(Module::fingerprint).collect();
        folders.dedup();
        assert_eq!(folders.len(), MODULES.len());
    }
}
