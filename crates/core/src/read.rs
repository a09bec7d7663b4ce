//! Reads JSON members by hand, so that an error can say where it happened.
//!
//! A path is put together on the way out of an error, step by step; reading what is right costs nothing for it.

use serde_json::{Map, Value};

use crate::affinity::AffinityError;

/// Adds to the path of an error where its value stands.
pub(crate) trait Under {
    /// The same, with the path below `step`.
    fn under(self, step: &str) -> Self;
}

// === impl AffinityError ===

impl AffinityError {
    /// An error at the value itself.
    pub(crate) fn new(problem: &str) -> Self {
        Self {
            path: String::new(),
            problem: problem.to_owned(),
        }
    }

    /// The same error, seen from further out.
    pub(crate) fn under(self, step: &str) -> Self {
        let joint = if self.path.is_empty() || self.path.starts_with('[') {
            ""
        } else {
            "."
        };
        Self {
            path: format!("{step}{joint}{}", self.path),
            ..self
        }
    }
}

impl<T> Under for Result<T, AffinityError> {
    fn under(self, step: &str) -> Self {
        self.map_err(|error| error.under(step))
    }
}

/// An absent member and an explicit `null` are the same to the API server.
pub(crate) fn present(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| !value.is_null())
}

pub(crate) fn object(value: &Value) -> Result<&Map<String, Value>, AffinityError> {
    value.as_object().ok_or_else(|| wrong_type("an object", value))
}

pub(crate) fn string(value: &Value) -> Result<&str, AffinityError> {
    value.as_str().ok_or_else(|| wrong_type("a string", value))
}

/// A member that must be there and be a string.
pub(crate) fn text<'a>(map: &'a Map<String, Value>, name: &str) -> Result<&'a str, AffinityError> {
    member(map, name, string)?.ok_or_else(|| AffinityError::new("is missing").under(name))
}

/// A member that may be missing.
pub(crate) fn member<'a, T>(
    map: &'a Map<String, Value>,
    name: &str,
    read: impl FnOnce(&'a Value) -> Result<T, AffinityError>,
) -> Result<Option<T>, AffinityError> {
    present(map.get(name)).map(read).transpose().under(name)
}

/// A member that is a list; without it, the list is empty.
pub(crate) fn list<'a, T>(
    map: &'a Map<String, Value>,
    name: &str,
    read: impl Fn(&'a Value) -> Result<T, AffinityError>,
) -> Result<Vec<T>, AffinityError> {
    Ok(member(map, name, |value| entries(value, read))?.unwrap_or_default())
}

/// The entries of a list.
pub(crate) fn entries<'a, T>(
    value: &'a Value,
    read: impl Fn(&'a Value) -> Result<T, AffinityError>,
) -> Result<Vec<T>, AffinityError> {
    let items = value.as_array().ok_or_else(|| wrong_type("a list", value))?;
    let entry = |(index, item)| read(item).map_err(|error| error.under(&format!("[{index}]")));
    items.iter().enumerate().map(entry).collect()
}

fn wrong_type(wanted: &str, found: &Value) -> AffinityError {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    AffinityError::new(&format!("must be {wanted}, is {found}"))
}
