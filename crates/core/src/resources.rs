//! Resource vectors and a pod's effective request.
