//! Gathers what the translation of a pod depends on.

use serde_json::{Value, json};

use tensile_core::names;
use tensile_core::status::Problem;
use tensile_core::translate::pod::{self as translate, Lower};
use tensile_core::translate::service_account::ServiceAccount;
use tensile_core::translate::service_env::{Service, service_env};
use tensile_runtime::key::Key;

use super::Body;
use super::side::UPPER_ACCOUNT;
use crate::context::Context;

/// An upper pod and what it becomes.
pub(super) struct Translated {
    /// The upper pod.
    pub upper: Value,
    /// The lower pod.
    pub lower: Lower,
    /// Whose service account it has.
    pub service_account: ServiceAccount,
}

// === impl Translated ===

impl Translated {
    /// Translates the body of the upper pod `key`.
    ///
    /// # Errors
    /// When the pod cannot be translated; it says why.
    pub(super) fn new(context: &Context, key: &Key, body: &Body) -> Result<Self, Problem> {
        let refused = |error: String| Problem::Refused { error };
        let settings = &context.settings;
        let upper = body.value().map_err(|error| refused(error.to_string()))?;
        let namespace = context.shared.lock().namespaces.metadata(&key.namespace);
        let service_account = ServiceAccount::of(&upper["metadata"], &namespace, settings.service_account)
            .map_err(|error| refused(with_cause(&error)))?;
        let service_env = environment(context, key, &upper, service_account);
        let translation = translate::Context {
            origin_cluster: &settings.origin_cluster,
            node_name: &settings.node_name,
            node_labels: &settings.node_labels,
            ignored_keys: &settings.ignored_keys,
            ignore_labels: &settings.ignore_labels,
            lower_namespace: &settings.below(&key.namespace),
            service_env: &service_env,
            service_account,
            policy: &settings.policy,
        };
        let mut lower =
            translate::to_lower(&upper, &translation).map_err(|error| refused(with_cause(&error)))?;
        let shaped = settings.pool.shape(&mut lower.pod);
        shaped.map_err(|error| refused(error.to_string()))?;
        Ok(Self {
            upper,
            lower,
            service_account,
        })
    }

    /// Remembers on the lower pod that it reads a Secret with tokens. The intent does not depend on it.
    pub(super) fn reads_token(&mut self) {
        self.lower.pod["metadata"]["annotations"][names::SERVICE_ACCOUNT] = json!(UPPER_ACCOUNT);
    }
}

/// The service variables of a pod. The API server is the one that its tokens are for.
fn environment(
    context: &Context,
    key: &Key,
    upper: &Value,
    service_account: ServiceAccount,
) -> Vec<(String, String)> {
    let address = context
        .settings
        .upper_api
        .as_ref()
        .filter(|_| service_account == ServiceAccount::Upper);
    let api_server = address.map(|address| Service::api_server(&address.host, address.port));
    let links = upper["spec"]["enableServiceLinks"] != false;
    let state = context.shared.lock();
    let services = state.objects.services.of(&key.namespace);
    service_env(services.chain(api_server.as_ref()), &key.namespace, links)
}

/// An error and what caused it, in one line.
fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", with_cause(source)),
        None => error.to_string(),
    }
}
