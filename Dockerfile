# All of Tensile's binaries on a small base. `just image` does all of this; by hand, on a system whose glibc is not newer
# than the base's:
#   cargo build --release --workspace --exclude e2e --bins
#   install -D --target-directory target/image target/release/tensile-{virtual-node,webhook,scheduler-extender,descheduler} \
#     target/release/kubectl-tensile
#   docker build -t tensile:0.1.0 .
# The base must bring glibc, libgcc and CA certificates; any other works as well: --build-arg BASE=debian:12-slim
ARG BASE=gcr.io/distroless/cc-debian12:nonroot
FROM ${BASE}

# The folder with the binaries and nothing else, within the build context.
ARG BINARIES=target/image
COPY ${BINARIES}/ /usr/bin/

# Nobody, as in distroless' nonroot: by number, so that Kubernetes can see that it is not root.
USER 65532:65532
