//! What is built, from which package, with which flags.

/// The two Go modules, embedded so that a built test binary does not need the source tree.
pub(super) const MODULES: [Module; 2] = [
    Module {
        name: "kubernetes",
        go_mod: include_str!("../../control-plane/kubernetes/go.mod"),
        go_sum: include_str!("../../control-plane/kubernetes/go.sum"),
    },
    Module {
        name: "tools",
        go_mod: include_str!("../../control-plane/tools/go.mod"),
        go_sum: include_str!("../../control-plane/tools/go.sum"),
    },
];

/// Every binary, in the order of building.
pub(super) const RECIPES: [Recipe; 9] = [
    Recipe::tool("etcd", "go.etcd.io/etcd/server/v3"),
    Recipe::kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    Recipe::kubernetes(
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
    Recipe::kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    Recipe::kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    Recipe::tool("kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    Recipe::kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    Recipe::kubernetes("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    Recipe::tool("helm", "helm.sh/helm/v4/cmd/helm"),
];

/// Go module path of kwok, whose manifests are copied out of the module.
pub(super) const KWOK_MODULE: &str = "sigs.k8s.io/kwok";

/// Name of the folder with kwok's manifests, beside the binaries.
pub(super) const KWOK_MANIFESTS: &str = "kwok-manifests";

/// Raised when flags or contents change while the go.sum files do not.
const RECIPE_VERSION: &str = "1";

/// Packages that hold the version which Kubernetes binaries report.
const VERSION_PACKAGES: [&str; 2] = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"];

/// One main module of ours: requirements only, no code.
pub(super) struct Module {
    pub(super) name: &'static str,
    pub(super) go_mod: &'static str,
    pub(super) go_sum: &'static str,
}

/// One binary.
pub(super) struct Recipe {
    pub(super) name: &'static str,
    pub(super) package: &'static str,
    pub(super) module: &'static str,
}

// === impl Recipe ===

impl Recipe {
    const fn kubernetes(name: &'static str, package: &'static str) -> Self {
        Self {
            name,
            package,
            module: "kubernetes",
        }
    }

    const fn tool(name: &'static str, package: &'static str) -> Self {
        Self {
            name,
            package,
            module: "tools",
        }
    }

    /// Linker flags: no debug information, and for Kubernetes the version that clients parse.
    pub(super) fn linker_flags(&self) -> String {
        match self.module {
            "kubernetes" => kubernetes_linker_flags(kubernetes_version()),
            _ => "-s -w".to_owned(),
        }
    }
}

/// Names the folder of one set of binaries: a hash (FNV-1a, 64 bits) of all that decides what is built.
pub(super) fn fingerprint() -> String {
    let inputs = MODULES.iter().map(|module| module.go_sum).chain([RECIPE_VERSION]);
    let hash = inputs
        .flat_map(str::bytes)
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{hash:016x}")
}

/// The version in the `require` line of the Kubernetes module, such as `1.36.3`.
fn kubernetes_version() -> &'static str {
    let lines = MODULES[0].go_mod.lines();
    let required = lines.filter_map(|line| {
        line.trim()
            .trim_start_matches("require ")
            .strip_prefix("k8s.io/kubernetes v")
    });
    required
        .map(|rest| rest.split_whitespace().next().unwrap_or_default())
        .next()
        .unwrap_or_default()
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
    fn kubernetes_binaries_report_the_version_of_the_module() {
        let flags = RECIPES[1].linker_flags();
        let version = kubernetes_version();
        assert!(version.starts_with("1."), "{version}");
        for package in VERSION_PACKAGES {
            assert!(
                flags.contains(&format!("-X {package}.gitVersion=v{version} ")),
                "{flags}"
            );
        }
    }

    #[test]
    fn every_recipe_is_a_tool_of_its_module() {
        for recipe in &RECIPES {
            let module = MODULES
                .iter()
                .find(|module| module.name == recipe.module)
                .unwrap();
            assert!(
                module.go_mod.contains(recipe.package),
                "{} is not in {}",
                recipe.package,
                recipe.module
            );
        }
    }
}
