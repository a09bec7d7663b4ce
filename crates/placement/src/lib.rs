//! Model of the lower clusters and the question whether a pod fits, shared by extender and descheduler: pure.
