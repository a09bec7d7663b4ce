//! Service environment variables: those of the upper services.

use serde_json::{Value, json};

use super::json::{Object, containers_mut};

/// Keeps the lower kubelet from describing *lower* services. It still sets `KUBERNETES_*` of its own cluster where
/// the container does not.
pub(super) fn no_lower_services(spec: &mut Object) {
    spec.insert("enableServiceLinks".to_owned(), json!(false));
}

/// Puts `service_env` in front of every container's own variables, which win, as they do on a kubelet, and can
/// refer to them as `$(NAME)`. Unlike there, a variable of `envFrom` with the same name loses.
pub(super) fn inject(spec: &mut Object, service_env: &[(String, String)]) {
    if service_env.is_empty() {
        return;
    }
    for container in containers_mut(spec) {
        let own = match container.remove("env") {
            Some(Value::Array(own)) => own,
            _ => Vec::new(),
        };
        let is_own = |name: &str| own.iter().any(|env| env["name"] == name);
        let mut env: Vec<_> = service_env
            .iter()
            .filter(|(name, _)| !is_own(name))
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        env.extend(own);
        container.insert("env".to_owned(), Value::Array(env));
    }
}
