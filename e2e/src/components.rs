//! All of Tensile's components in one program, for tests, demo and benchmarks: they run the code that the
//! components' own binaries run.

use anyhow::Result;
use tensile_runtime::shutdown::Shutdown;

/// One component with its flags.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Components {
    /// `tensile-virtual-node`.
    #[command(hide = true)]
    VirtualNode(Box<tensile_virtual_node::Args>),
    /// `tensile-webhook`.
    #[command(hide = true)]
    Webhook(Box<tensile_webhook::Args>),
    /// `tensile-descheduler`.
    #[command(hide = true)]
    Descheduler(Box<tensile_descheduler::Args>),
    /// `tensile-scheduler-extender`.
    #[command(hide = true)]
    SchedulerExtender(Box<tensile_scheduler_extender::Args>),
}

// === impl Components ===

impl Components {
    /// Runs the component until shutdown.
    ///
    /// # Errors
    /// As the component's own binary.
    pub async fn run(self, shutdown: Shutdown) -> Result<()> {
        match self {
            Self::VirtualNode(args) => tensile_virtual_node::run(*args, shutdown).await,
            Self::Webhook(args) => Ok(tensile_webhook::run(*args, shutdown).await?),
            Self::Descheduler(args) => Ok(tensile_descheduler::run(*args, shutdown).await?),
            Self::SchedulerExtender(args) => Ok(tensile_scheduler_extender::run(*args, shutdown).await?),
        }
    }
}
