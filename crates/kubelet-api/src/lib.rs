//! The kubelet HTTPS API as a library, answered by a Backend.
