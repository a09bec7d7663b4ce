//! The scheduler asks by TLS, and a renewed certificate is served without a restart.

use anyhow::{Context, ensure};
use e2e::{TestResult, support};

use crate::{DEADLINE, on_site};

#[test]
fn a_renewed_certificate_is_taken_up_while_the_scheduler_asks() -> TestResult {
    on_site(async |site, extender| {
        let spec = &site.ground.spec;
        site.create(vec![site.mk_pod("before", 100)?]).await?;
        site.bound("before").await?;
        let first = spec.served_certificate().await?;
        spec.renew()?;
        support::await_condition("the new certificate to be served", DEADLINE, || async {
            Ok((spec.served_certificate().await? != first).then_some(()))
        })
        .await?;
        site.create(vec![site.mk_pod("after", 100)?]).await?;
        site.bound("after").await?;
        let extender = extender.as_ref().context("no extender")?;
        extender.component.check_running()?;
        let failed = extender.text("/metrics").await?;
        ensure!(
            failed.contains("tensile_extender_errors_total{verb=\"filter\"} 0"),
            "{failed}"
        );
        Ok(())
    })
}
