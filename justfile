# Recipes for people; CI runs .ci/run, which needs no just. `just` lists them.

set shell := ['bash', '-euc']

# Lists the recipes.
default:
    @just --list --unsorted

# Type-checks everything, tests and benchmarks included.
check:
    cargo check --workspace --all-targets

# Formats all code.
fmt:
    cargo fmt --all

# What CI says about style: formatting and clippy, warnings denied.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- --deny warnings

# The API documentation, warnings denied; `just doc --open` shows it.
doc *args:
    RUSTDOCFLAGS='--deny warnings' cargo doc --workspace --no-deps {{ args }}

# All tests. The live ones start real control planes; built once, about eight minutes.
test *args:
    cargo test --workspace {{ args }}

# The tests without any cluster: unit, table and property tests of the libraries.
test-unit *args:
    cargo test --workspace --exclude e2e {{ args }}

# The live tests alone, for instance `just test-live real_nodes`; real nodes must be possible here.
test-live target='*':
    TENSILE_REQUIRE=real-nodes cargo test --package e2e --test '{{ target }}'

# Every fault of docs/faults.md for as long as it says, forty minutes; CI does some seconds of each. Writes the table.
faults:
    TENSILE_FAULTS=full TENSILE_FAULTS_OUT="$PWD/target/faults.md" \
        cargo test --package e2e --test faults -- no_fault --nocapture

# The last row of that alone: the process is killed in 20 bursts of 1 000 pods.
kills:
    TENSILE_FAULTS=kills cargo test --package e2e --test faults -- no_fault --nocapture

# Life cycle, logs and exec with lower clusters of an older minor (built once, six minutes), then with an upper one.
old-minor:
    TENSILE_OLDER=-lower,-first,-second cargo test --package e2e --test lifecycle --test virtual_node
    TENSILE_OLDER=rights-lower cargo test --package e2e --test chart -- roles
    TENSILE_OLDER=-upper cargo test --package e2e --test lifecycle --test virtual_node

# Two lower clusters behind one upper cluster, with a workload; Ctrl-C ends it. `just demo --once` ends by itself.
demo *args:
    cargo demo -- {{ args }}

# The rules of the house: which crate may know which, how long files may get.
architecture:
    cargo test --package e2e --test architecture

# Every crate by itself, so that each Cargo.toml asks for what its crate uses.
check-alone:
    for manifest in crates/*/Cargo.toml e2e/Cargo.toml; do cargo check --manifest-path "$manifest" || exit 1; done

# Rewrites the flag tables in docs/ from the code; a test fails while they differ.
docs-flags:
    TENSILE_UPDATE_DOCS=1 cargo test --package e2e --test flags

# Licences, sources and duplicate crates (deny.toml); says so when cargo-deny is not installed.
deny:
    @if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; \
    else echo 'cargo-deny is not installed: cargo install --locked cargo-deny'; fi

# What a virtual node costs, against both clusters alone, on simulated nodes; arguments as in e2e/benches/offload.
bench *args:
    cargo build --release --package e2e --package tensile-virtual-node --bin tensile-virtual-node
    cargo bench --package e2e --bench offload -- --binary target/release/tensile-virtual-node {{ args }}

# Memory, connections and idle time of a process with many lower clusters; `just bench-clusters --clusters 100`.
bench-clusters *args:
    cargo bench --package e2e --bench many_clusters -- {{ args }}

# What a virtual node costs streams: throughput and memory, against the lower API server alone; needs real nodes.
bench-streams *args:
    cargo bench --package e2e --bench streams -- {{ args }}

# How soon 200 status changes a second are passed on, and memory with 10 000 pods in one cluster and in ten.
bench-status:
    cargo bench --package e2e --bench offload -- --figures stream --nodes 30
    just bench --figures memory

# What the placement model costs at scale: `just bench-placement [clusters nodes pods]`.
bench-placement *args:
    cargo bench --package tensile-placement --features testing --bench scale -- {{ args }}

# kube-scheduler with the extender beside the same without: pods a second, and pods parked below.
bench-extender *args:
    cargo bench --package e2e --bench extender -- {{ args }}

# How soon the extender answers filter and prioritize: `just bench-latency [clusters nodes pods]`.
bench-latency *args:
    cargo bench --package tensile-scheduler-extender --bench latency -- {{ args }}

# What planning a round of the descheduler costs at scale: `just bench-descheduler [nodes pods]`, of each of ten clusters.
bench-descheduler *args:
    cargo bench --package tensile-descheduler --bench rounds -- {{ args }}

# Hours of virtual time with and without the descheduler, as a table.
simulation:
    cargo test --package tensile-descheduler --test simulation -- --nocapture

# Moves 50 x 10 replicas, and pods without owner under a descheduler killed 40 times between any two steps; makes room for 20
# pods of `cpu` thousandths of a CPU on 3 x 20 nodes that are full by seven tenths, filled at random from `packing` on.
descheduler-long owners='50' kills='10' packing='0' cpu='3000':
    TENSILE_DESCHEDULER_OWNERS={{ owners }} TENSILE_DESCHEDULER_KILLS={{ kills }} TENSILE_DESCHEDULER_PACKING={{ packing }} \
        TENSILE_DESCHEDULER_PACKING_CPU={{ cpu }} cargo test --package e2e --test descheduler -- --nocapture

# Reviews that the webhook answers per CPU-second.
bench-webhook *args:
    cargo bench --package tensile-webhook --bench reviews -- {{ args }}

# Fuzzes reviews and stashes for so many seconds, from a new start each time.
fuzz seconds='600':
    TENSILE_FUZZ_SECONDS={{ seconds }} TENSILE_FUZZ_SEED=$RANDOM \
        cargo test --package tensile-webhook --release --test fuzz

# Fuzzes requests to the kubelet port for so many seconds, from a new start each time.
fuzz-kubelet seconds='600':
    TENSILE_FUZZ_SECONDS={{ seconds }} TENSILE_FUZZ_SEED=$RANDOM \
        cargo test --package tensile-kubelet-api --release --test fuzz

# Twice so many seconds of 200 execs at a time through the kubelet API, then a look for what they left.
load seconds='60':
    TENSILE_LOAD_SECONDS={{ seconds }} cargo test --package tensile-kubelet-api --release --test load -- --nocapture

# The chart: lint, every combination of switches, schema, and whether its roles are enough.
chart:
    cargo test --package e2e --test chart

# Second opinions on the chart: Kubernetes' schemas of each minor version, and checkov. Python's venv is needed.
lint-chart:
    charts/lint

# Installs, upgrades, rolls back and removes in every way, also what takes minutes.
install-long:
    TENSILE_INSTALL_LONG=1 TENSILE_REQUIRE=real-nodes cargo test --package e2e --test install -- --nocapture

# The image of the Dockerfile with all binaries, by docker, podman or buildah (TENSILE_BUILDER): `just image NAME`. The same
# binaries make the same image, to the bit: nothing in it has a time of its own.
image name='tensile:0.1.0': image-binaries
    case "${TENSILE_BUILDER:=docker}" in \
    docker) SOURCE_DATE_EPOCH=0 docker buildx build --output type=docker,rewrite-timestamp=true --tag {{ name }} . ;; \
    *) "$TENSILE_BUILDER" build --timestamp 0 --tag {{ name }} . ;; \
    esac

# The test `install` with the release binaries in the image, which must be smaller than 60 MB then.
image-check: image-binaries
    TENSILE_IMAGE_BINARIES="$PWD/target/image" TENSILE_REQUIRE=real-nodes cargo test --package e2e --test install -- --nocapture

# What goes into the image.
image-binaries: build
    install -D --target-directory target/image target/release/tensile-{virtual-node,webhook,scheduler-extender,descheduler} \
        target/release/kubectl-tensile

# Release binaries in target/release.
build:
    cargo build --workspace --exclude e2e --release --bins

# What CI does, from system packages to tests. Installs Debian packages, so it needs root.
ci:
    .ci/run
