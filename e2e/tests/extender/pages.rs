//! The explanations, as people and programs read them.

use anyhow::{Context, ensure};
use e2e::TestResult;
use serde_json::{Value, json};

use crate::{NODES, on_site};

#[test]
fn a_pod_is_explained_by_name_or_by_its_spec_as_json_or_text() -> TestResult {
    on_site(async |site, extender| {
        let extender = extender.as_ref().context("no extender")?;
        let mut pod = site.mk_pod("large", 3_000)?;
        pod["metadata"]["namespace"] = json!(site.namespace);
        let (status, posted) = extender.post("/explain", "", &pod.to_string()).await?;
        ensure!(status == 200, "{status}: {posted}");
        let posted: Value = serde_json::from_str(&posted)?;
        for cluster in ["a", "b", "c"] {
            ensure!(posted[cluster]["nodes"] == NODES, "{posted}");
            ensure!(
                posted[cluster]["reasons"]["Insufficient cpu"] == NODES,
                "{posted}"
            );
        }
        let (status, text) = extender
            .post("/explain", "Accept: text/plain\r\n", &pod.to_string())
            .await?;
        ensure!(
            status == 200 && text.contains("a:\n") && text.contains("Insufficient cpu"),
            "{status}: {text}"
        );

        site.create(vec![pod]).await?;
        site.refused("large").await?;
        let told = extender
            .page(&format!("/explain?pod={}/large", site.namespace))
            .await?;
        ensure!(told == posted, "the pod itself: {told}, its spec: {posted}");
        let text = extender.text("/fragments").await?;
        let fragments: Value = serde_json::from_str(&text)?;
        ensure!(fragments["a"]["largest"]["cpu"] == "2", "{fragments}");
        Ok(())
    })
}
