//! The network between the clusters of one process: a bridge in a namespace of its own.
//!
//! ```text
//! root namespace        namespace <run>-fabric            namespace <run>-N, one per cluster
//! tnsX 10.202.X.1/24 ── root ─ bridge br0 ─ pN ────────── eth0 10.202.X.N/24, pods 10.(100+X).N.0/24
//! ```
//!
//! X is leased, so that several processes do not collide. No forwarding or firewall setting of the machine is
//! touched; all namespaces route to all pods, so pods of different clusters reach each other.

use std::{
    net::IpAddr,
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Result, bail};
use tokio::sync::Mutex;

use super::shell::{ip, run};
use crate::{leases::Lease, run::Folder};

/// Choices of X; the second octets of pod networks (101 to 190) then avoid 10.96 (Services) and 10.202.
const OCTETS: std::ops::RangeInclusive<u32> = 1..=90;

/// Host numbers of clusters; 1 is the root namespace.
const FIRST_CLUSTER: u32 = 2;
const LAST_CLUSTER: u32 = 250;

static CURRENT: Mutex<Weak<Fabric>> = Mutex::const_new(Weak::new());

/// The bridge, the root namespace's link to it, and what is known of the attached clusters.
pub(crate) struct Fabric {
    octet: Lease,
    next: AtomicU32,
    /// Numbers of attached clusters, whose pods every new one must reach.
    attached: Mutex<Vec<u32>>,
    // Dropping it clears the namespace and the link.
    folder: Folder,
}

/// One cluster's namespace and its port of the bridge.
pub(crate) struct Attachment {
    fabric: Arc<Fabric>,
    number: u32,
}

// === impl Fabric ===

impl Fabric {
    /// The fabric of this process; it ends with the last cluster that uses it.
    pub(crate) async fn obtain() -> Result<Arc<Self>> {
        let mut current = CURRENT.lock().await;
        if let Some(fabric) = current.upgrade() {
            return Ok(fabric);
        }
        let fabric = Arc::new(Self::create().await?);
        *current = Arc::downgrade(&fabric);
        Ok(fabric)
    }

    async fn create() -> Result<Self> {
        let folder = Folder::create("fabric")?;
        let is_free = |octet| !Path::new("/sys/class/net").join(link_name(octet)).exists();
        let octet = Lease::take("octet", &OCTETS, is_free)?;
        let fabric = Self {
            octet,
            next: AtomicU32::new(FIRST_CLUSTER),
            attached: Mutex::default(),
            folder,
        };
        let (namespace, link) = (fabric.namespace(), link_name(fabric.octet.number()));
        fabric.folder.register(&format!("netns {namespace}"))?;
        fabric.folder.register(&format!("link {link}"))?;
        ip(&format!("netns add {namespace}")).await?;
        ip(&format!("-n {namespace} link add br0 type bridge")).await?;
        ip(&format!("-n {namespace} link set br0 up")).await?;
        ip(&format!(
            "link add {link} type veth peer name root netns {namespace}"
        ))
        .await?;
        ip(&format!("-n {namespace} link set root master br0 up")).await?;
        ip(&format!("addr add {}/24 dev {link}", fabric.root())).await?;
        ip(&format!("link set {link} up")).await?;
        Ok(fabric)
    }

    /// The address of the root namespace, which pods and clusters can reach.
    pub(crate) fn root(&self) -> IpAddr {
        self.address(1)
    }

    fn address(&self, number: u32) -> IpAddr {
        // All numbers come from ranges that end below 256.
        let byte = |number| u8::try_from(number).unwrap_or_default();
        IpAddr::from([10, 202, byte(self.octet.number()), byte(number)])
    }

    fn pod_network(&self, number: u32) -> String {
        format!("10.{}.{number}.0/24", 100 + self.octet.number())
    }

    fn namespace(&self) -> String {
        format!("{}-fabric", prefix())
    }

    /// Makes a namespace for one cluster and connects it with all others; `folder` will clear it.
    pub(crate) async fn attach(self: Arc<Self>, folder: &Folder) -> Result<Attachment> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number > LAST_CLUSTER {
            bail!(
                "one process can have {} real clusters",
                LAST_CLUSTER - FIRST_CLUSTER + 1
            );
        }
        let attachment = Attachment {
            fabric: Arc::clone(&self),
            number,
        };
        let (namespace, fabric) = (attachment.namespace(), self.namespace());
        folder.register(&format!("netns {namespace}"))?;
        ip(&format!("netns add {namespace}")).await?;
        ip(&format!("-n {namespace} link set lo up")).await?;
        ip(&format!(
            "-n {namespace} link add eth0 type veth peer name p{number} netns {fabric}"
        ))
        .await?;
        ip(&format!("-n {fabric} link set p{number} master br0 up")).await?;
        ip(&format!(
            "-n {namespace} addr add {}/24 dev eth0",
            attachment.address()
        ))
        .await?;
        ip(&format!("-n {namespace} link set eth0 up")).await?;
        ip(&format!("-n {namespace} route add default via {}", self.root())).await?;
        attachment.set_kernel_options().await?;
        self.route_pods(&attachment).await?;
        Ok(attachment)
    }

    /// Routes between the pods of a new cluster, those of the others, and the root namespace.
    async fn route_pods(&self, new: &Attachment) -> Result<()> {
        let route = |number| format!("{} via {}", self.pod_network(number), self.address(number));
        let mut attached = self.attached.lock().await;
        // A cluster that is gone already cannot be told; its own pods are gone with it.
        attached.retain(|&number| Path::new("/run/netns").join(namespace(number)).exists());
        ip(&format!(
            "route replace {} dev {}",
            route(new.number),
            link_name(self.octet.number())
        ))
        .await?;
        for &other in attached.iter() {
            ip(&format!("-n {} route replace {}", new.namespace(), route(other))).await?;
            // The other cluster may have ended at this very moment, and then needs no route.
            if let Err(error) = ip(&format!(
                "-n {} route replace {}",
                namespace(other),
                route(new.number)
            ))
            .await
                && Path::new("/run/netns").join(namespace(other)).exists()
            {
                return Err(error);
            }
        }
        attached.push(new.number);
        Ok(())
    }
}

// === impl Attachment ===

impl Attachment {
    /// The cluster's address.
    pub(crate) fn address(&self) -> IpAddr {
        self.fabric.address(self.number)
    }

    /// The cluster's network namespace.
    pub(crate) fn namespace(&self) -> String {
        namespace(self.number)
    }

    /// The network of the cluster's pods.
    pub(crate) fn pod_network(&self) -> String {
        self.fabric.pod_network(self.number)
    }

    /// A name for the cluster's cgroup; no other cluster of the machine has it.
    pub(crate) fn cgroup(&self) -> String {
        namespace(self.number)
    }

    /// Cuts the cluster off, or connects it again.
    pub(crate) async fn set_connected(&self, connected: bool) -> Result<()> {
        let state = if connected { "up" } else { "down" };
        ip(&format!(
            "-n {} link set p{} {state}",
            self.fabric.namespace(),
            self.number
        ))
        .await
    }

    /// The cluster forwards to its pods, and sees the traffic between them, which Services need.
    async fn set_kernel_options(&self) -> Result<()> {
        let mut options = vec!["net.ipv4.ip_forward=1"];
        if Path::new("/proc/sys/net/bridge").exists() {
            options.push("net.bridge.bridge-nf-call-iptables=1");
        }
        let enter = format!("--net=/run/netns/{}", self.namespace());
        run(
            "nsenter",
            [enter.as_str(), "sysctl", "-q", "-w"].into_iter().chain(options),
        )
        .await
        .map(drop)
    }
}

fn prefix() -> String {
    format!("tensile-{}", std::process::id())
}

fn namespace(number: u32) -> String {
    format!("{}-{number}", prefix())
}

/// The root namespace's end of its link; names of links have at most 15 characters.
fn link_name(octet: u32) -> String {
    format!("tns{octet}")
}
