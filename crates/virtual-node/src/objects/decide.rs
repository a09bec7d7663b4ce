//! The next step for an object that pods need.

use super::{Kind, Object, ObjectKey};

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do until something changes.
    Wait,
    /// Make the copy.
    Create,
    /// Renew the copy with this UID.
    Renew(Box<str>),
    /// Remove the copy with this UID: its original is gone, or nobody needs it.
    Remove(Box<str>),
}

/// What should happen next with `object`.
#[must_use]
pub fn decide(key: &ObjectKey, object: &Object) -> Step {
    if key.kind == Kind::Namespace {
        // Namespaces stay: others may have moved in.
        return if object.lower.is_none() {
            Step::Create
        } else {
            Step::Wait
        };
    }
    let needed = !object.users.is_empty();
    match (&object.upper, &object.lower) {
        (Some(_), None) if needed => Step::Create,
        (Some(upper), Some(lower)) if needed && upper.version != lower.version => {
            Step::Renew(lower.uid.clone())
        }
        (Some(_), Some(_)) if needed => Step::Wait,
        (upper, Some(lower)) if lower.ours || upper.is_none() => Step::Remove(lower.uid.clone()),
        (_, Some(_)) => Step::Wait,
        (_, None) => Step::Wait,
    }
}

#[cfg(test)]
mod tests {
    use tensile_runtime::key::Key;

    use super::super::Side;
    use super::*;

    #[test]
    fn copies_follow_their_originals_and_their_users() {
        let side = |version: &str| {
            Some(Side {
                uid: version.into(),
                version: version.into(),
                ours: true,
            })
        };
        for (upper, lower, users, step) in [
            (None, None, 1, Step::Wait),
            (side("1"), None, 0, Step::Wait),
            (side("1"), None, 1, Step::Create),
            (side("1"), side("1"), 1, Step::Wait),
            (side("2"), side("1"), 1, Step::Renew("1".into())),
            (side("2"), side("1"), 0, Step::Remove("1".into())),
            (side("1"), side("1"), 0, Step::Remove("1".into())),
            (None, side("1"), 1, Step::Remove("1".into())),
            (None, side("1"), 0, Step::Remove("1".into())),
        ] {
            let users = (0..users).map(|n| Key::new("ns", &n.to_string())).collect();
            let object = Object {
                upper: upper.clone(),
                lower: lower.clone(),
                users,
                ..Object::default()
            };
            let key = ObjectKey {
                kind: Kind::Secret,
                key: Key::new("ns", "a"),
            };
            assert_eq!(decide(&key, &object), step, "{upper:?} {lower:?}");
        }
    }

    #[test]
    fn a_copy_that_another_virtual_node_made_is_left_to_it_while_there_is_an_original() {
        let side = |ours| {
            Some(Side {
                uid: "u".into(),
                version: "1".into(),
                ours,
            })
        };
        let key = ObjectKey {
            kind: Kind::Secret,
            key: Key::new("ns", "a"),
        };
        for (upper, step) in [(side(true), Step::Wait), (None, Step::Remove("u".into()))] {
            let object = Object {
                upper,
                lower: side(false),
                ..Object::default()
            };
            assert_eq!(decide(&key, &object), step);
        }
    }

    #[test]
    fn a_namespace_is_made_and_never_removed() {
        let key = ObjectKey::namespace("ns");
        let lower = Some(Side {
            uid: "u".into(),
            version: "".into(),
            ours: true,
        });
        assert_eq!(decide(&key, &Object::default()), Step::Create);
        assert_eq!(
            decide(
                &key,
                &Object {
                    lower,
                    ..Object::default()
                }
            ),
            Step::Wait
        );
    }
}
