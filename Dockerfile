# All of Tensile's binaries on a small base. Build them first, on a system whose glibc is not newer than the base's:
#   cargo build --release --workspace --exclude e2e --bins
#   docker build -t tensile:0.1.0 .
# The base must bring glibc, libgcc and CA certificates; any other works as well: --build-arg BASE=debian:12-slim
ARG BASE=gcr.io/distroless/cc-debian12:nonroot
FROM ${BASE}

# Where the binaries lie, within the build context.
ARG BINARIES=target/release
COPY ${BINARIES}/tensile-virtual-node ${BINARIES}/tensile-webhook /usr/bin/

# Nobody, as in distroless' nonroot: by number, so that Kubernetes can see that it is not root.
USER 65532:65532
