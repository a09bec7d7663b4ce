//! What a virtual node costs: bursts, paced load, status latency, requests, memory, restart, idle time.
//!
//! `cargo bench -p e2e --bench offload -- [--out docs/FILE.md]`; `TENSILE_BENCH_PODS=200` makes a trial of some minutes.
//!
//! Every side is measured in one run on one machine, which is the bottleneck: so that nothing but the ratios says
//! something. Pods are bare pods, created and deleted one by one by this process, [`load::WRITERS`] at a time, and
//! bound by kube-scheduler, on all sides alike. While one cluster is measured alone, the virtual node does not run.

mod args;
mod burst;
mod ground;
mod kubelets;
mod latency;
mod load;
mod many;
mod resident;
mod stream;
mod usage;

use anyhow::{Context, Result};
use clap::Parser;
use e2e::measure::{Report, describe_machine};

use args::{Args, Figures};
use burst::Bursts;
use ground::Ground;
use latency::Paced;

fn main() -> Result<()> {
    let args = Args::parse();
    e2e::measure::run("offload", args.bench, report(&args))
}

/// Measures and reports; what was found before a failure is printed too.
async fn report(args: &Args) -> Result<()> {
    let mut report = Report {
        title: "What a virtual node costs".to_owned(),
        facts: facts(args),
        ..Report::default()
    };
    let result = measure(args, &mut report).await;
    println!("{}", report.text());
    result?;
    if let Some(out) = args.out() {
        std::fs::write(&out, report.markdown()).with_context(|| format!("cannot write {}", out.display()))?;
        println!("written to {}", out.display());
    }
    Ok(())
}

fn facts(args: &Args) -> Vec<String> {
    let machine = format!("measured at {} on {}", ground::now(), describe_machine());
    let binary = match args.binary {
        Some(_) => "the virtual node's own binary",
        None => "the binary of the tests, which is all components in one",
    };
    let binary = format!("measured is {binary}");
    if args.figures == Figures::Memory {
        return vec![machine, binary, many::FACT.to_owned()];
    }
    let mut facts = vec![
        machine,
        binary,
        format!(
            "an upper and a lower cluster, each with {} kwok nodes, both with audit logs, on this machine together",
            args.nodes
        ),
        format!(
            "pods without owners, created and deleted one by one ({} at a time) and bound by kube-scheduler, on all sides alike",
            load::WRITERS
        ),
    ];
    if args.workload == args::Workload::Complete {
        facts.push(
            "each pod with a service-account token, and a ConfigMap and a Secret that all share; on all sides the benchmark \
             asks for tokens and objects what kubelets would, for the simulated nodes do not"
                .to_owned(),
        );
    }
    if !args.is_full() && args.figures == Figures::Offload {
        facts.push(format!(
            "a trial with {} pods: the goals are meant for {}",
            args.pods,
            args::FULL
        ));
    }
    facts
}

async fn measure(args: &Args, report: &mut Report) -> Result<()> {
    if args.figures == Figures::Memory {
        return many::measure(args, report).await;
    }
    let ground = Ground::start(args).await?;
    if args.figures == Figures::Stream {
        return stream::measure(&ground, args, report).await;
    }
    // Its figures come after those of the bursts, in the middle of which they are measured.
    let mut resident = Report::default();
    let bursts = bursts(&ground, args, report, &mut resident).await;
    report.lines.append(&mut resident.lines);
    let bursts = bursts?;
    let mut paced = Paced::alone(&ground, args).await?;
    let node = ground.start_node().await?;
    paced.through(&ground, args).await?;
    ground.stop_node(node).await?;
    paced.report(report);
    usage::report(&bursts, report);
    Ok(())
}

/// Measures all bursts, and what there is to be measured while the pods of the largest are there.
async fn bursts(
    ground: &Ground,
    args: &Args,
    report: &mut Report,
    resident: &mut Report,
) -> Result<[Bursts; 2]> {
    let mut all = args.bursts().map(|(pods, rounds)| (Bursts::new(pods), rounds));
    for (bursts, rounds) in &mut all {
        for round in 1..=*rounds {
            ground::tell(format!(
                "burst of {} pods, round {round} of {rounds}",
                bursts.pods
            ));
            bursts.alone(ground).await?;
            let mut node = ground.start_node().await?;
            bursts.create(ground, &node).await?;
            if bursts.pods == args.pods {
                resident::idle(ground, &node, args, resident).await?;
                resident::status_changes(ground, args, resident).await?;
                node = resident::restart(ground, node, bursts.pods, resident).await?;
            }
            bursts.delete(ground, &node).await?;
            ground.stop_node(node).await?;
        }
        bursts.report(report);
    }
    Ok(all.map(|(bursts, _)| bursts))
}
