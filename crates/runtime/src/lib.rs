//! The I/O shell that all Tensile binaries share.
