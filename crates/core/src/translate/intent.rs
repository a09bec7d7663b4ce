//! The hash that tells a change of what we want from what the lower cluster made of it.

use serde_json::Value;

use crate::hash::Fnv;

/// A hash of `value` that depends on its content only: not on the order of members, nor on members that are
/// null, which the API server writes and drops as it likes.
#[must_use]
pub fn fingerprint(value: &Value) -> u64 {
    let mut fnv = Fnv::default();
    add(value, &mut fnv);
    fnv.finish()
}

/// Members are sorted here and not by the map type, because that type depends on a feature of `serde_json` which
/// any crate of the build can switch on.
fn add(value: &Value, fnv: &mut Fnv) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().filter(|(_, value)| !value.is_null()).collect();
            members.sort_unstable_by_key(|(key, _)| key.as_str());
            fnv.update(b"{");
            for (key, value) in members {
                add_text(key, fnv);
                add(value, fnv);
            }
            fnv.update(b"}");
        }
        Value::Array(elements) => {
            fnv.update(b"[");
            elements.iter().for_each(|element| add(element, fnv));
            fnv.update(b"]");
        }
        Value::String(text) => add_text(text, fnv),
        Value::Number(number) => {
            fnv.update(b"#");
            fnv.update(number.to_string().as_bytes());
        }
        Value::Bool(true) => fnv.update(b"t"),
        Value::Bool(false) => fnv.update(b"f"),
        Value::Null => fnv.update(b"n"),
    }
}

/// The closing byte never occurs in UTF-8, so that no two sequences of texts look the same.
fn add_text(text: &str, fnv: &mut Fnv) {
    fnv.update(b"\"");
    fnv.update(text.as_bytes());
    fnv.update(&[0xff]);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_order_of_members_and_nulls_do_not_count() {
        let one = serde_json::from_str::<Value>(r#"{"a":1,"b":{"c":[1,2],"d":null}}"#).unwrap();
        let other = serde_json::from_str::<Value>(r#"{"b":{"c":[1,2]},"a":1,"e":null}"#).unwrap();
        assert_eq!(fingerprint(&one), fingerprint(&other));
    }

    #[test]
    fn every_other_difference_counts() {
        let all = [
            json!({}),
            json!([]),
            json!(null),
            json!([null]),
            json!(""),
            json!("1"),
            json!(1),
            json!(true),
            json!(false),
            json!([1, 2]),
            json!([2, 1]),
            json!([[1], 2]),
            json!([1, [2]]),
            json!(["ab", "c"]),
            json!(["a", "bc"]),
            json!({"a": "b"}),
            json!(["a", "b"]),
            json!({"a": {"b": "c"}}),
        ];
        for (i, one) in all.iter().enumerate() {
            for other in &all[i + 1..] {
                assert_ne!(fingerprint(one), fingerprint(other), "{one} and {other}");
            }
        }
    }
}
