//! What was used: requests per pod, memory, and the processor time of every process.

use std::collections::BTreeSet;

use e2e::measure::{Line, Report, Request, Requests, Table};

use crate::burst::{Bursts, Cost, Memory, Of, count};
use crate::ground::{LOAD, VIRTUAL_NODE};

/// Bytes of a megabyte and of a kilobyte.
const MEGA: f64 = 1e6;
const KILO: f64 = 1e3;

/// Adds the figures of the bursts, the small one and the large one.
pub(crate) fn report([small, large]: &[Bursts; 2], report: &mut Report) {
    requests(large, report);
    memory(small, large, report);
    let tables: [(&str, Of); 2] = [
        ("creating", |costs| &costs.created),
        ("deleting", |costs| &costs.deleted),
    ];
    for (what, of) in tables {
        report.tables.extend(request_table(large, what, of));
    }
    for (what, of) in tables {
        report.tables.push(cpu_table(large, what, of));
    }
}

/// The goals for the virtual node's own requests, over creation and deletion together.
fn requests(bursts: &Bursts, report: &mut Report) {
    let costs = bursts.through.created.last().zip(bursts.through.deleted.last());
    let Some((created, deleted)) = costs else { return };
    let upper = created.requests.upper.plus(&deleted.requests.upper);
    let lower = created.requests.lower.plus(&deleted.requests.lower);
    let status = |request: &Request| request.resource == "pods/status" && request.is_write();
    let create = |request: &Request| request.resource == "pods" && request.verb == "create";
    let delete = |request: &Request| request.resource == "pods" && request.verb == "delete";
    let event = |request: &Request| request.resource == "events" && request.is_write();
    // What it reads to find out about itself is not of the pods.
    let read = |request: &Request| {
        let probe = request.verb == "list" && request.resource == "pods";
        request.is_read() && !probe && !matches!(request.resource.as_str(), "leases" | "nodes" | "/version")
    };
    let mut add = |what: &str, goal: f64, all: &Requests, wanted: &dyn Fn(&Request) -> bool| {
        let found = all.filter(|request| request.user == VIRTUAL_NODE && wanted(request));
        let value = per_pod(found.total(), bursts.pods);
        let line = Line::new(
            format!("{what} per pod"),
            value,
            "",
            format!("{} pods: {found}", bursts.pods),
        );
        report.lines.push(line.at_most(goal));
    };
    add("status writes above", 3.0, &upper, &status);
    add("deletes above", 1.0, &upper, &delete);
    add("creates below", 1.0, &lower, &create);
    add("deletes below", 1.0, &lower, &delete);
    add("live reads", 0.0, &upper.plus(&lower), &read);
    add("events", 0.0, &upper.plus(&lower), &event);
    for (what, cost) in [("creating", created), ("deleting", deleted)] {
        let kilobytes =
            |bytes: u64| count(usize::try_from(bytes).unwrap_or(usize::MAX)) / KILO / count(bursts.pods);
        let (sent, received) = (kilobytes(cost.bytes.sent), kilobytes(cost.bytes.received));
        let from = format!("{sent:.2} KB sent, {received:.2} KB received, to and from both API servers");
        let line = Line::new(format!("bytes per pod, {what}"), sent + received, "KB", from);
        report.lines.push(line);
    }
}

/// Two decimals: what is less is not of the pods, but the same for any number of them.
fn per_pod(requests: usize, pods: usize) -> f64 {
    (count(requests) * 100.0 / count(pods)).round() / 100.0
}

fn memory(small: &Bursts, large: &Bursts, report: &mut Report) {
    for bursts in [small, large] {
        let Memory {
            resident,
            files,
            peak,
        } = bursts.memory();
        let from = format!(
            "{:.1} MB of it pages of the binary; {:.1} MB at most so far",
            files / MEGA,
            peak / MEGA
        );
        let line = Line::new(
            format!("resident memory with {} pods", bursts.pods),
            resident / MEGA,
            "MB",
            from,
        );
        let is_large = bursts.pods == large.pods;
        report
            .lines
            .push(if is_large { line.at_most(40.0) } else { line });
    }
    let further = count(large.pods - small.pods);
    let value = (large.memory().resident - small.memory().resident) / further / KILO;
    let from = format!("between {} and {} pods", small.pods, large.pods);
    report
        .lines
        .push(Line::new("resident memory per further pod", value, "KB", from).at_most(4.0));
}

/// Who asked for what, creating or deleting through the virtual node.
fn request_table(bursts: &Bursts, what: &str, of: Of) -> Option<Table> {
    let requests = &of(&bursts.through).last()?.requests;
    let mut rows = Vec::new();
    for (cluster, requests) in [("upper", &requests.upper), ("lower", &requests.lower)] {
        for (request, times) in requests.ranked() {
            let value = per_pod(times, bursts.pods);
            if value > 0.0 {
                let cells = [
                    cluster,
                    who(request),
                    &request.to_string(),
                    &format!("{value:.2}"),
                ];
                rows.push(cells.map(str::to_owned).to_vec());
            }
        }
    }
    Some(Table {
        title: format!(
            "Requests per pod, {what} {} through the virtual node",
            bursts.pods
        ),
        header: ["cluster", "who", "request", "per pod"]
            .map(str::to_owned)
            .to_vec(),
        rows,
    })
}

/// The program that asked; the components of the control planes share a user.
fn who(request: &Request) -> &str {
    match request.user.as_str() {
        VIRTUAL_NODE | LOAD => &request.user,
        _ => &request.agent,
    }
}

/// Processor seconds of every process, on all sides.
fn cpu_table(bursts: &Bursts, what: &str, of: Of) -> Table {
    let sides = [&bursts.upper, &bursts.lower, &bursts.through].map(|costs| of(costs).last());
    let names: BTreeSet<&String> = sides.iter().flatten().flat_map(|cost| cost.cpu.names()).collect();
    let row = |name: &str, seconds: [f64; 3]| {
        let cells = seconds.map(|seconds| format!("{seconds:.2}"));
        std::iter::once(name.to_owned()).chain(cells).collect()
    };
    let used = |of: &dyn Fn(&Cost) -> f64| sides.map(|cost| cost.map_or(0.0, of));
    let mut rows: Vec<Vec<String>> = names
        .iter()
        .map(|name| row(name, used(&|cost| cost.cpu.of(name))))
        .collect();
    rows.push(row("all", used(&|cost| cost.cpu.total())));
    Table {
        title: format!(
            "Processor seconds, {what} {} pods, until all is at rest",
            bursts.pods
        ),
        header: ["process", "upper alone", "lower alone", "through"]
            .map(str::to_owned)
            .to_vec(),
        rows,
    }
}
