//! Every label, annotation, taint and well-known name that Tensile reads or writes, each defined once.

/// Pod label: the pod (or, on a namespace, every pod in it) takes part in Tensile. Value `true`.
pub const VIRTUAL_POD: &str = "virtual-pod";
/// Pod annotation: the stash, scheduling constraints that act in the lower cluster, as JSON.
pub const CLUSTER_SELECTOR: &str = "clusterSelector";
/// Node label: marks virtual nodes, with the value [`NODE_TYPE_VALUE`].
pub const NODE_TYPE: &str = "type";
/// Value of [`NODE_TYPE`] on every virtual node.
pub const NODE_TYPE_VALUE: &str = "virtual-kubelet";
/// Node label: id of the lower cluster behind a virtual node.
pub const CLUSTER_ID: &str = "clusterID";
/// Annotation on lower pods: labels taken off on the way down (`--ignore-labels`), as a JSON object.
pub const TRIPPED_LABELS: &str = "tripped-labels";

/// Label on every lower object of ours: UID of the upper cluster's kube-system namespace.
pub const ORIGIN_CLUSTER: &str = "tensile.dev/origin-cluster";
/// Label on lower pods: the virtual node that the upper pod is bound to; on other copies: the one that made them.
pub const ORIGIN_NODE: &str = "tensile.dev/origin-node";
/// Label on every lower object of ours: UID of the upper object.
pub const ORIGIN_UID: &str = "tensile.dev/origin-uid";
/// Annotation on lower objects: `namespace/name` of the upper object.
pub const ORIGIN: &str = "tensile.dev/origin";
/// Annotation on lower pods: hash of the translated pod; on other copies: resourceVersion of the original.
pub const INTENT: &str = "tensile.dev/intent";
/// Annotation on lower pods: what of the upper pod's mutable fields was carried down last, as JSON; it tells what
/// the user changed above from what the lower cluster changed below.
pub const APPLIED: &str = "tensile.dev/applied";
/// Annotation on lower Secrets with tokens: when they are replaced, as RFC 3339.
pub const REFRESH_AT: &str = "tensile.dev/refresh-at";
/// Annotation on lower pods that were made again: restarts of the containers before, by name, as JSON.
pub const RESTARTS: &str = "tensile.dev/restarts";
/// Start of the annotations on lower pods that hold a field of the upper pod for a downward API volume, such as
/// `tensile.dev/upper-labels`.
pub const UPPER_FIELD_PREFIX: &str = "tensile.dev/upper-";
/// Annotation on upper pods and namespaces: whose service account a pod gets (`upper`, `lower`, `none`). On lower
/// pods, `upper` says that the pod reads a Secret with tokens, which must be kept fresh.
pub const SERVICE_ACCOUNT: &str = "tensile.dev/service-account";
/// Annotation on upper pods and namespaces: what happens while the lower cluster cannot be reached
/// (`evict`, `stay`, `never-duplicate`).
pub const WHEN_UNREACHABLE: &str = "tensile.dev/when-unreachable";
/// Value of [`WHEN_UNREACHABLE`]: nothing may replace the pod before it is known to be gone.
pub const NEVER_DUPLICATE: &str = "never-duplicate";
/// Annotation on upper pods: the lower node that the extender reserved.
pub const PLACEMENT_HINT: &str = "tensile.dev/placement-hint";
/// Annotation on upper pods: wanted shares per cluster or zone.
pub const SPLIT: &str = "tensile.dev/split";
/// Label on a Secret of the system namespace: id of the lower cluster that its kubeconfig opens.
pub const CLUSTER: &str = "tensile.dev/cluster";
/// Annotation on that Secret: `"true"` lets the cluster go without touching it.
pub const ABANDON: &str = "tensile.dev/abandon";
/// Annotation on that Secret: why it cannot be used; gone when it can.
pub const CLUSTER_PROBLEM: &str = "tensile.dev/problem";
/// Finalizer on that Secret: holds it until nothing of ours is left in the lower cluster.
pub const CLUSTER_FINALIZER: &str = "tensile.dev/cluster";
/// Annotation on virtual nodes: what goes in front of the names of lower namespaces (`--namespace-prefix`).
pub const NAMESPACE_PREFIX: &str = "tensile.dev/namespace-prefix";

/// Annotation on upper pods: the virtual nodes that the webhook made the pod avoid, separated by commas.
pub const AVOIDED_NODES: &str = "tensile.dev/avoided-nodes";

/// Annotation on upper pods without an owner that the descheduler has moved: UID of the first pod of their name. The
/// avoidance of such pods is kept under it.
pub const MOVED_FROM: &str = "tensile.dev/moved-from";
/// Label on ConfigMaps of the system namespace: a pod that is being moved, as it is to be made again. Value `true`.
pub const MOVING_POD: &str = "tensile.dev/moving-pod";

/// Taint key on virtual nodes, as virtual-kubelet's.
pub const PROVIDER_TAINT: &str = "virtual-kubelet.io/provider";
/// Value of [`PROVIDER_TAINT`].
pub const PROVIDER_TAINT_VALUE: &str = "tensile";

/// Label with a node's own name, set by every kubelet.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// Taint key of nodes whose Ready condition is False.
pub const TAINT_NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint key of nodes whose Ready condition is Unknown.
pub const TAINT_UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Taint key of cordoned nodes.
pub const TAINT_UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// How Tensile signs objects that name their controller, such as EndpointSlices and volumes.
pub const MANAGER: &str = "tensile.dev";

/// Namespace that Tensile never touches pods of; its UID identifies a cluster.
pub const KUBE_SYSTEM: &str = "kube-system";
/// Where Tensile's own objects live unless `--system-namespace` says otherwise.
pub const SYSTEM_NAMESPACE: &str = "tensile-system";
/// Namespace of the node heartbeats.
pub const NODE_LEASE_NAMESPACE: &str = "kube-node-lease";
