//! Whether the lower cluster answers.

use std::time::Duration;

use kube::Client;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Reachability;
use crate::api;

/// How often the lower cluster is asked; virtual-kubelet pings as often.
const INTERVAL: Duration = Duration::from_secs(10);
/// Longest time for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the lower cluster `id` until the future is dropped, and says after `grace` that it does not answer.
pub async fn watch_over(id: &str, lower: Client, grace: Duration, state: watch::Sender<Reachability>) {
    let mut answered = Instant::now();
    loop {
        let asked = Instant::now();
        match ask(&lower).await {
            Ok(()) => {
                answered = Instant::now();
                if state.send_if_modified(|state| {
                    std::mem::replace(state, Reachability::Reachable) != Reachability::Reachable
                }) {
                    tracing::info!(cluster = id, "the lower cluster answers again");
                }
            }
            Err(reason) if answered.elapsed() >= grace => {
                let became = state.send_if_modified(|state| {
                    let news = *state == Reachability::Reachable;
                    if news {
                        *state = Reachability::Unreachable {
                            reason: reason.clone(),
                        };
                    }
                    news
                });
                if became {
                    tracing::warn!(
                        cluster = id,
                        reason,
                        "the lower cluster does not answer: node not ready"
                    );
                }
            }
            Err(_) => {}
        }
        tokio::time::sleep_until(asked + INTERVAL).await;
    }
}

async fn ask(lower: &Client) -> Result<(), String> {
    match tokio::time::timeout(TIMEOUT, api::read::<Value>(lower, "/version")).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
    }
}
