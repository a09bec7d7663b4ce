//! Pod status on its way from the lower pod to the upper one.
