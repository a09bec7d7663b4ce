//! All of Tensile's components in one binary, for tests, demo and benchmarks: they run the code that the
//! components' own binaries run.

use clap::Parser;
use tensile_runtime::shutdown::Shutdown;

/// Runs one component.
#[derive(Parser)]
enum Component {
    /// `tensile-virtual-node`.
    VirtualNode(tensile_virtual_node::Args),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let component = Component::parse();
    let shutdown = Shutdown::on_signals()?;
    match component {
        Component::VirtualNode(args) => tensile_virtual_node::run(args, shutdown).await,
    }
}
