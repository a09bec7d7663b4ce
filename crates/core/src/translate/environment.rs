//! Service environment variables: those of the upper services.

use serde_json::{Value, json};

use super::json::Object;

/// Keeps the lower kubelet from describing *lower* services. It still sets `KUBERNETES_*` of its own cluster where
/// the container does not.
pub(super) fn no_lower_services(spec: &mut Object) {
    spec.insert("enableServiceLinks".to_owned(), json!(false));
}

/// Puts `service_env` in front of the container's own variables, which win, as they do on a kubelet, and can refer
/// to them as `$(NAME)`. Unlike there, a variable of `envFrom` with the same name loses.
pub(super) fn inject(container: &mut Object, service_env: &[(String, String)]) {
    if service_env.is_empty() {
        return;
    }
    let own = match container.remove("env") {
        Some(Value::Array(own)) => own,
        _ => Vec::new(),
    };
    let services = service_env
        .iter()
        .filter(|(name, _)| !own.iter().any(|env| env["name"] == **name));
    let mut env: Vec<_> = services
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    env.extend(own);
    container.insert("env".to_owned(), Value::Array(env));
}
