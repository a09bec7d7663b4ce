//! Lower namespaces with another name: programs and users notice nothing.

use anyhow::ensure;
use e2e::virtual_node::VirtualNodeSpec;
use e2e::{TestResult, support};
use serde_json::json;

use crate::{DEADLINE, IDLE, mk_simple, on_site, pod};

const NODE: &str = "vn-second";
const PREFIX: &str = "second";
/// Keeps the pods of other tests away.
const TAINT: &str = "tensile.test/second";

#[test]
fn a_pod_below_a_prefix_is_reached_under_its_upper_name() -> TestResult {
    on_site(async |site| {
        let flags = ["--namespace-prefix", PREFIX, "--taint-key", TAINT];
        let (upper, lower) = (&site.ground.upper, &site.ground.lower);
        let _node = VirtualNodeSpec::new(NODE).args(flags).start(upper, lower).await?;
        let mut far = mk_simple("far", &format!("echo hello; {IDLE}"));
        far["spec"]["nodeName"] = json!(NODE);
        far["spec"]["tolerations"] = json!([{"key": TAINT, "operator": "Exists"}]);
        site.run(&[far]).await?;
        let below = format!("{PREFIX}-{}", site.namespace);
        ensure!(!pod(lower.client().await?, &below, "far").await?.is_null());
        ensure!(site.lower_pod("far").await?.is_null());

        site.await_log(&["far"], "hello\n").await?;
        let namespace = site
            .exec(
                "far",
                "cat /var/run/secrets/kubernetes.io/serviceaccount/namespace",
            )
            .await?;
        ensure!(namespace == site.namespace, "{namespace}");
        let copy = site.kubectl_ok(&["exec", "far", "-i", "--", "hostname"]).await?;
        ensure!(copy == "far\n", "{copy}");
        site.kubectl_ok(&["delete", "pod", "far"]).await?;
        support::pod_gone(&lower.client().await?, &below, "far", DEADLINE).await?;
        Ok(())
    })
}
