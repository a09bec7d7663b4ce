//! The command line.

use std::path::PathBuf;

use clap_complete::Shell;
use tensile_core::names;

use crate::doctor::DoctorArgs;
use crate::drain::DrainArgs;
use crate::join::JoinArgs;
use crate::leave::LeaveArgs;
use crate::output::Format;
use crate::why::WhyArgs;

/// Shows, adds, drains and diagnoses the lower clusters of Tensile.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "kubectl-tensile", bin_name = "kubectl tensile", version)]
pub struct Args {
    /// Which cluster is the upper one.
    #[command(flatten)]
    pub upper: UpperArgs,
    /// How the answer looks.
    #[arg(short, long, global = true, value_enum, default_value = "text")]
    pub output: Format,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Which cluster is the upper one, as kubectl's flags.
#[derive(Clone, Debug, clap::Args)]
pub struct UpperArgs {
    /// Kubeconfig of the upper cluster; without it, what kubectl would take.
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// Context of that kubeconfig; the current one if not given.
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// Namespace of Tensile's own objects.
    #[arg(long, global = true, env = "SYSTEM_NAMESPACE", default_value = names::SYSTEM_NAMESPACE)]
    pub system_namespace: String,
}

/// What to do.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Lists the lower clusters: state, version, free room, virtual nodes.
    Clusters,
    /// Says where a pod is, or why it is nowhere.
    Why(WhyArgs),
    /// Shows the free room of every lower node, and the pods that wait for some.
    Fragments,
    /// Looks for what is wrong, from versions to certificates, each with its remedy.
    Doctor(DoctorArgs),
    /// Adds a lower cluster: its rights, its Secret, and a check of the link both ways.
    Join(JoinArgs),
    /// Lets a lower cluster go.
    Leave(LeaveArgs),
    /// Cordons virtual nodes and evicts their pods.
    Drain(DrainArgs),
    /// Prints a script for a shell's completion.
    Completion {
        /// The shell.
        shell: Shell,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
