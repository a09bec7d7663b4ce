//! Tensile installed by Helm from its image, in an upper cluster whose node is real, before two real lower clusters.

mod ground;
mod image;
mod neighbour;
mod rights;
mod ways;
mod workload;

use e2e::{TestResult, real_nodes_or_report};

use ground::Ground;

/// One after the other in one place: each leaves it as it was.
#[tokio::test(flavor = "multi_thread")]
async fn releases_are_installed_tested_upgraded_rolled_back_and_removed() -> TestResult {
    if !real_nodes_or_report()? {
        return Ok(());
    }
    let ground = Ground::make().await?;
    ways::as_the_docs_say(&ground).await?;
    let granted = ways::full_suite(&ground).await?;
    ways::the_only_scheduler(&ground).await?;
    if ways::is_long() {
        ways::without_virtual_nodes_at_the_end(&ground).await?;
    }
    rights::are_not_more(&ground, &granted)?;
    Ok(())
}
