//! A virtual kubelet: shows a lower cluster as a Node and runs the pods bound to it there.
