//! The objects that a pod needs beside itself.
