//! Many pods at once: until all are Running, and until all are gone.

use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::measure::{Bytes, CpuTimes, Line, PodWatch, Progress, Report, Samples, Traffic, file_rss, peak_rss};
use e2e::virtual_node::VirtualNode;

use crate::ground::{BothRequests, Ground, Side, VIRTUAL_NODE, tell, tell_progress};
use crate::load;

/// Bytes of a megabyte.
const MEGA: f64 = 1e6;

/// What one burst, or the deletion of one, took.
#[derive(Clone, Debug)]
pub(crate) struct Cost {
    /// Seconds until the last pod was there, or was gone.
    pub(crate) seconds: f64,
    /// Processor seconds of all processes, until they came to rest.
    pub(crate) cpu: CpuTimes,
    /// What was asked of both API servers, until then.
    pub(crate) requests: BothRequests,
    /// What the virtual node sent and received, until then.
    pub(crate) bytes: Bytes,
}

/// The costs of all rounds on one side.
#[derive(Clone, Debug, Default)]
pub(crate) struct Costs {
    pub(crate) created: Vec<Cost>,
    pub(crate) deleted: Vec<Cost>,
}

/// Chooses creation or deletion.
pub(crate) type Of = fn(&Costs) -> &[Cost];

/// Memory of the virtual node with all pods there, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) resident: f64,
    /// What of it is pages of files, which are the binary.
    pub(crate) files: f64,
    /// The most so far.
    pub(crate) peak: f64,
}

/// Bursts of one size, on all sides.
#[derive(Debug)]
pub(crate) struct Bursts {
    pub(crate) pods: usize,
    pub(crate) upper: Costs,
    pub(crate) lower: Costs,
    pub(crate) through: Costs,
    memory: Vec<Memory>,
}

// === impl Costs ===

impl Costs {
    fn seconds(costs: &[Cost]) -> f64 {
        costs
            .iter()
            .map(|cost| cost.seconds)
            .collect::<Samples>()
            .median()
    }
}

// === impl Bursts ===

impl Bursts {
    pub(crate) fn new(pods: usize) -> Self {
        let (upper, lower, through, memory) = Default::default();
        Self {
            pods,
            upper,
            lower,
            through,
            memory,
        }
    }

    fn deadline(&self) -> Duration {
        // Ten pods a second is slower than any machine on which this makes sense.
        Duration::from_secs(120) + Duration::from_millis(100) * u32::try_from(self.pods).unwrap_or(u32::MAX)
    }

    /// Measures each cluster alone.
    pub(crate) async fn alone(&mut self, ground: &Ground) -> Result<()> {
        for side in [Side::Upper, Side::Lower] {
            let created = self.burst(ground, side, None).await?;
            let deleted = self.deletion(ground, side, None).await?;
            let costs = if side == Side::Upper {
                &mut self.upper
            } else {
                &mut self.lower
            };
            costs.created.push(created);
            costs.deleted.push(deleted);
        }
        Ok(())
    }

    /// Measures the creation through the virtual node.
    pub(crate) async fn create(&mut self, ground: &Ground, node: &VirtualNode) -> Result<()> {
        let cost = self.burst(ground, Side::Through, Some(node)).await?;
        self.through.created.push(cost);
        #[allow(clippy::cast_precision_loss)] // Memory sizes are far below 2^53.
        let memory = Memory {
            resident: node.component.rss()? as f64,
            files: file_rss(&node.component)? as f64,
            peak: peak_rss(&node.component)? as f64,
        };
        tell(format!(
            "the virtual node has {:.1} MB resident, {:.1} MB of it its binary, {:.1} MB at most",
            memory.resident / MEGA,
            memory.files / MEGA,
            memory.peak / MEGA
        ));
        self.memory.push(memory);
        Ok(())
    }

    /// Measures the deletion through the virtual node.
    pub(crate) async fn delete(&mut self, ground: &Ground, node: &VirtualNode) -> Result<()> {
        let cost = self.deletion(ground, Side::Through, Some(node)).await?;
        self.through.deleted.push(cost);
        Ok(())
    }

    async fn burst(&self, ground: &Ground, side: Side, node: Option<&VirtualNode>) -> Result<Cost> {
        let pods = self.pods;
        let names = load::names("pod", pods);
        let load = async {
            tokio::try_join!(load::create(ground, side, &names), ground.serve(side, pods)).map(drop)
        };
        self.timed(ground, side, node, "Running", load, |now| now.running == pods)
            .await
    }

    async fn deletion(&self, ground: &Ground, side: Side, node: Option<&VirtualNode>) -> Result<Cost> {
        let names = load::names("pod", self.pods);
        let load = load::delete(ground.client(side), side, &names);
        self.timed(ground, side, node, "gone", load, |now| now.present == 0)
            .await
    }

    /// Runs the load until `reached`, then waits for rest: the time ends with the former, what was used with the
    /// latter.
    async fn timed(
        &self,
        ground: &Ground,
        side: Side,
        node: Option<&VirtualNode>,
        what: &str,
        load: impl Future<Output = Result<()>>,
        reached: impl Fn(&Progress) -> bool,
    ) -> Result<Cost> {
        let what = format!("{} pods {what}, {}", self.pods, side.name());
        let watch = PodWatch::start(ground.client(side).clone(), side.namespace()).await?;
        let (audit, cpu) = (ground.audit()?, ground.cpu(node)?);
        let before = traffic(node).await?;
        let started = Instant::now();
        let progress = |now: &Progress| {
            tell_progress(format!(
                "{} Running, {} there, of {}",
                now.running, now.present, self.pods
            ));
        };
        tokio::try_join!(load, watch.until(&what, self.deadline(), reached, progress))?;
        let seconds = started.elapsed().as_secs_f64();
        tell(format!("{what}: {seconds:.2} s"));
        drop(watch);
        ground.settle().await?;
        Ok(Cost {
            seconds,
            cpu: ground.cpu(node)?.since(&cpu),
            requests: audit.requests()?,
            bytes: traffic(node).await?.since(&before),
        })
    }

    /// Adds the figures of this size.
    pub(crate) fn report(&self, report: &mut Report) {
        let full = self.pods;
        let ratio = |what: &str, goal: f64, of: Of| {
            let [upper, lower, through] =
                [&self.upper, &self.lower, &self.through].map(|costs| Costs::seconds(of(costs)));
            let from = format!(
                "{through:.2} s, against {upper:.2} s on the upper and {lower:.2} s on the lower cluster alone; {:.2} × the latter",
                through / lower
            );
            Line::new(
                format!("{what} {full} pods, of the floor"),
                through / (upper + lower),
                "×",
                from,
            )
            .at_most(goal)
        };
        report.lines.push(ratio("creating", 1.10, |costs| &costs.created));
        report.lines.push(ratio("deleting", 1.50, |costs| &costs.deleted));
        let cpu = |what: &str, costs: &[Cost]| {
            let used: Samples = costs.iter().map(|cost| cost.cpu.of(VIRTUAL_NODE)).collect();
            let value = used.median() * 1000.0 / count(full);
            let from = format!("{:.2} s for {full} pods", used.median());
            Line::new(
                format!("processor time per 1000 pods, {what} {full}"),
                value,
                "s",
                from,
            )
            .at_most(2.0)
        };
        report.lines.push(cpu("creating", &self.through.created));
        report.lines.push(cpu("deleting", &self.through.deleted));
    }

    /// Memory of the virtual node with all pods there; medians of the rounds.
    pub(crate) fn memory(&self) -> Memory {
        let median = |of: fn(&Memory) -> f64| self.memory.iter().map(of).collect::<Samples>().median();
        Memory {
            resident: median(|memory| memory.resident),
            files: median(|memory| memory.files),
            peak: median(|memory| memory.peak),
        }
    }
}

/// The bytes of the virtual node, if it runs.
async fn traffic(node: Option<&VirtualNode>) -> Result<Traffic> {
    match node {
        Some(node) => Traffic::of(&node.component).await,
        None => Ok(Traffic::default()),
    }
}

/// A count as a number to divide by.
pub(crate) fn count(pods: usize) -> f64 {
    u32::try_from(pods).map_or(f64::INFINITY, f64::from)
}
