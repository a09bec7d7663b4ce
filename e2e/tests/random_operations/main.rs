//! Random operations on both sides of a virtual node, with restarts and links that fail: after quiet, both sides
//! agree, nothing of ours is left below without its origin, and nothing foreign has changed.
//!
//! A run is told by its seed, which is printed; `TENSILE_SEED` replaces the seed of the first run.

mod agreement;
mod operations;
mod random;
mod world;

use anyhow::{Context, Result};
use e2e::support::{self, Shared};
use e2e::{Cluster, ClusterSpec, NodeTemplate, TestResult};

use random::Random;
use world::World;

/// Operations of one run.
const OPERATIONS: usize = 500;

static GROUND: Shared<Ground> = Shared::new();

struct Ground {
    upper: Cluster,
    lower: Cluster,
}

async fn mk_ground() -> Result<Ground> {
    let (upper, lower) = tokio::try_join!(
        Cluster::start(ClusterSpec::new("random-upper")),
        Cluster::start(ClusterSpec::new("random-lower")),
    )?;
    lower.kwok(2, NodeTemplate::default()).await?;
    support::custom_kind(&lower.client().await?).await?;
    Ok(Ground { upper, lower })
}

fn run(seed: u64) -> TestResult {
    GROUND.run(mk_ground, async |ground| {
        eprintln!("seed {seed}");
        let mut random = Random::new(seed);
        let mut world = World::new(&ground.upper, &ground.lower, seed).await?;
        let outcome = async {
            for _ in 0..OPERATIONS {
                operations::one(&mut world, &mut random).await?;
            }
            world.quiet().await?;
            agreement::reached(&world).await?;
            world.delete_all_pods().await?;
            agreement::nothing_left(&world).await
        };
        outcome.await.with_context(|| format!("seed {seed}"))
    })
}

#[test]
fn both_sides_agree_after_random_operations() -> TestResult {
    let seed = std::env::var("TENSILE_SEED").ok();
    run(seed.and_then(|seed| seed.parse().ok()).unwrap_or(1))
}

#[test]
fn both_sides_agree_after_other_random_operations() -> TestResult {
    run(2)
}

#[test]
fn both_sides_agree_after_still_other_random_operations() -> TestResult {
    run(3)
}
