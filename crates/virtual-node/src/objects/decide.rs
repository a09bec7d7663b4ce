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

/// What should happen next with `object`, which pods of ours need or not.
#[must_use]
pub fn decide(key: &ObjectKey, object: &Object, needed: bool) -> Step {
    if key.kind == Kind::Namespace {
        return match &object.lower {
            None if needed => Step::Create,
            // If it is empty, which is looked at then.
            Some(lower) if lower.ours && !needed => Step::Remove(lower.uid.clone()),
            _ => Step::Wait,
        };
    }
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
            let object = Object {
                upper: upper.clone(),
                lower: lower.clone(),
                ..Object::default()
            };
            let key = ObjectKey {
                kind: Kind::Secret,
                key: Key::new("ns", "a"),
            };
            assert_eq!(decide(&key, &object, users > 0), step, "{upper:?} {lower:?}");
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
            assert_eq!(decide(&key, &object, false), step);
        }
    }

    #[test]
    fn a_namespace_is_made_and_removed_only_if_it_is_ours() {
        let key = ObjectKey::namespace("ns");
        assert_eq!(decide(&key, &Object::default(), true), Step::Create);
        assert_eq!(decide(&key, &Object::default(), false), Step::Wait);
        for (ours, needed, step) in [
            (true, true, Step::Wait),
            (true, false, Step::Remove("u".into())),
            (false, false, Step::Wait),
        ] {
            let lower = Some(Side {
                uid: "u".into(),
                version: "".into(),
                ours,
            });
            let object = Object {
                lower,
                ..Object::default()
            };
            assert_eq!(decide(&key, &object, needed), step);
        }
    }
}
