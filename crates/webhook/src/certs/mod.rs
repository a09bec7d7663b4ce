//! Where the serving certificate comes from: files, or `--self-signed`.
//!
//! Self-signed: all replicas serve what the Secret holds; the one that holds the lease makes it, renews it and
//! publishes its CA. What an API server must trust is published before it is served:
//!
//! ```text
//! lease holder ── step ──┬─▶ Secret (CA, next CA, certificate) ── watch ──▶ every replica's handshakes
//!                        └─▶ caBundle of the MutatingWebhookConfiguration ──▶ API servers
//! ```

pub mod bundle;
pub mod issue;
pub mod keeper;
pub mod step;
