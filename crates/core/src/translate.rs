//! Upper objects to the lower objects that stand for them.
