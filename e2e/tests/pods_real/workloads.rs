//! Deployments, Jobs, restart policies, init containers and sidecars.

use anyhow::{Result, ensure};
use e2e::{TestResult, support};
use serde_json::{Value, json};

use crate::{DEADLINE, IDLE, Site, mk_container, mk_pod, mk_spec, on_site, with};

fn mk_deployment(name: &str, replicas: usize) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": mk_spec(&json!({"containers": [mk_container("main", IDLE, &json!({}))]})),
            },
        },
    })
}

fn mk_job(name: &str, script: &str) -> Value {
    let pod = json!({"restartPolicy": "Never", "containers": [mk_container("main", script, &json!({}))]});
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"spec": mk_spec(&pod)}},
    })
}

/// A pod whose container counts its starts in a volume and then runs `script` with the count in `$n`.
fn mk_counting(name: &str, policy: &str, script: &str) -> Value {
    let script = format!("n=$(cat /data/n 2>/dev/null || echo 0); n=$((n + 1)); echo $n >/data/n; {script}");
    let mount = json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]});
    let spec = json!({
        "restartPolicy": policy,
        "volumes": [{"name": "data", "emptyDir": {}}],
        "containers": [mk_container("main", &script, &mount)],
    });
    mk_pod(name, &spec)
}

async fn await_running(site: &Site, count: usize) -> Result<()> {
    support::await_condition(&format!("{count} pods on both sides"), DEADLINE, || async {
        let is_so = |pods: &Vec<Value>| {
            pods.len() == count && pods.iter().all(|pod| pod["status"]["phase"] == "Running")
        };
        Ok(site.pods().await?.iter().all(is_so).then_some(()))
    })
    .await
}

#[test]
fn a_deployment_is_made_grows_shrinks_and_goes() -> TestResult {
    on_site(async |site| {
        site.apply(&[mk_deployment("web", 2)]).await?;
        site.kubectl_ok(&["rollout", "status", "deployment/web", "--timeout=90s"])
            .await?;
        await_running(&site, 2).await?;
        for replicas in [3, 1] {
            let flag = format!("--replicas={replicas}");
            site.kubectl_ok(&["scale", "deployment/web", &flag]).await?;
            await_running(&site, replicas).await?;
        }
        site.kubectl_ok(&["delete", "deployment/web"]).await?;
        await_running(&site, 0).await
    })
}

#[test]
fn one_job_completes_and_another_fails() -> TestResult {
    on_site(async |site| {
        site.apply(&[mk_job("good", "echo done"), mk_job("bad", "exit 3")])
            .await?;
        for (job, condition) in [("job/good", "complete"), ("job/bad", "failed")] {
            let condition = format!("--for=condition={condition}");
            site.kubectl_ok(&["wait", &condition, job, "--timeout=90s"])
                .await?;
        }
        let [above, _] = site.pods().await?;
        let bad = above
            .iter()
            .find(|pod| pod["metadata"]["labels"]["job-name"] == "bad");
        let ended = bad.map(|pod| &pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]);
        ensure!(ended == Some(&json!(3)), "{bad:?}");
        ensure!(site.kubectl_ok(&["logs", "job/good"]).await? == "done\n");
        site.kubectl_ok(&["delete", "jobs", "good", "bad"]).await?;
        await_running(&site, 0).await
    })
}

#[test]
fn restart_policies_act_below_and_count_above() -> TestResult {
    on_site(async |site| {
        let never = mk_counting("never", "Never", "exit 3");
        let on_failure = mk_counting("on-failure", "OnFailure", "[ $n = 2 ]");
        let always = mk_counting("always", "Always", &format!("[ $n = 2 ] || exit 4; {IDLE}"));
        site.apply(&[never, on_failure, always]).await?;

        let never = site.await_pod("never", "Failed", |pod| pod["status"]["phase"] == "Failed");
        let never = &never.await?["status"]["containerStatuses"][0];
        ensure!(
            never["restartCount"] == 0 && never["state"]["terminated"]["exitCode"] == 3,
            "{never}"
        );

        let succeeded = |pod: &Value| pod["status"]["phase"] == "Succeeded";
        let on_failure =
            &site.await_pod("on-failure", "Succeeded", succeeded).await?["status"]["containerStatuses"][0];
        ensure!(on_failure["restartCount"] == 1, "{on_failure}");
        ensure!(
            on_failure["lastState"]["terminated"]["exitCode"] == 1,
            "{on_failure}"
        );

        let again = |pod: &Value| {
            let container = &pod["status"]["containerStatuses"][0];
            container["restartCount"] == 1 && container["ready"] == true
        };
        let always =
            &site.await_pod("always", "running again", again).await?["status"]["containerStatuses"][0];
        ensure!(always["lastState"]["terminated"]["exitCode"] == 4, "{always}");
        Ok(())
    })
}

#[test]
fn init_containers_run_first_and_sidecars_beside() -> TestResult {
    on_site(async |site| {
        let mount = json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]});
        let sidecar = json!({
            "restartPolicy": "Always",
            "startupProbe": {"exec": {"command": ["test", "-f", "/data/sidecar"]}, "periodSeconds": 1},
        });
        let spec = json!({
            "volumes": [{"name": "data", "emptyDir": {}}],
            "initContainers": [
                mk_container("prepare", "echo preparing; echo prepared >/data/prepare", &mount),
                mk_container("sidecar", &format!("cp /data/prepare /data/sidecar; {IDLE}"), &with(sidecar, &mount)),
            ],
            "containers": [mk_container("main", &format!("cat /data/sidecar; {IDLE}"), &mount)],
        });
        let broken = json!({
            "restartPolicy": "Never",
            "initContainers": [mk_container("prepare", "exit 5", &json!({}))],
            "containers": [mk_container("main", IDLE, &json!({}))],
        });
        site.apply(&[mk_pod("broken", &broken)]).await?;
        site.run(&[mk_pod("whole", &spec)]).await?;

        site.await_log(&["whole", "-c", "main"], "prepared\n").await?;
        ensure!(site.kubectl_ok(&["logs", "whole", "-c", "prepare"]).await? == "preparing\n");
        let whole = site.pod("whole").await?;
        let [prepare, sidecar] = [0, 1].map(|n| &whole["status"]["initContainerStatuses"][n]);
        ensure!(
            prepare["state"]["terminated"]["reason"] == "Completed",
            "{prepare}"
        );
        ensure!(
            sidecar["started"] == true && sidecar["state"].get("running").is_some(),
            "{sidecar}"
        );

        let failed = |pod: &Value| pod["status"]["phase"] == "Failed";
        let broken = site.await_pod("broken", "Failed", failed).await?;
        let prepare = &broken["status"]["initContainerStatuses"][0];
        ensure!(prepare["state"]["terminated"]["exitCode"] == 5, "{prepare}");
        Ok(())
    })
}
