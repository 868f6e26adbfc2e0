# All services and the command line from one build; each of the last stages is the image of one of them. Nothing here
# needs BuildKit.

# The manifests, and an empty source for each crate: what the dependencies need to be compiled without our own code.
# This stage runs on each change, but its outcome, and so the cache of the next one, changes with the manifests only.
FROM rust:1.95-slim-bookworm AS manifests
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY crates crates
RUN find crates -type f ! -path '*/src/main.rs' ! -path '*/src/lib.rs' ! -path 'crates/*/Cargo.toml' -delete \
 && find crates -type d -empty -delete \
 && find crates -name lib.rs -exec truncate --size 0 {} + \
 && for main in crates/*/src/main.rs; do echo 'fn main() {}' > "$main"; done

# The dependencies. What was compiled of the empty sources is thrown away, so that it cannot pass for the real thing.
FROM rust:1.95-slim-bookworm AS dependencies
# How thoroughly the compiler works. The defaults are those of Cargo.toml.
ARG CARGO_PROFILE_RELEASE_LTO=thin
ARG CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1
ARG CARGO_PROFILE_RELEASE_OPT_LEVEL=3
ENV CARGO_PROFILE_RELEASE_LTO=$CARGO_PROFILE_RELEASE_LTO \
    CARGO_PROFILE_RELEASE_CODEGEN_UNITS=$CARGO_PROFILE_RELEASE_CODEGEN_UNITS \
    CARGO_PROFILE_RELEASE_OPT_LEVEL=$CARGO_PROFILE_RELEASE_OPT_LEVEL
WORKDIR /build
COPY --from=manifests /build ./
RUN cargo build --release --locked -p publisher -p nats-jobs-consumer -p status-service -p gateway -p cli \
 && for crate in crates/*; do name=$(sed -n 's/^name = "\(.*\)"/\1/p;T;q' "$crate/Cargo.toml") \
 && cargo clean --release --locked -p "$name" || exit; done

FROM dependencies AS build
COPY crates crates
RUN cargo build --release --locked -p publisher -p nats-jobs-consumer -p status-service -p gateway -p cli

# What the images share: certificates for TLS, and a user who owns nothing.
FROM debian:bookworm-slim AS runtime
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 65532:65532

FROM runtime AS publisher
COPY --from=build /build/target/release/publisher /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/publisher"]

FROM runtime AS consumer
COPY --from=build /build/target/release/consumer /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/consumer"]

FROM runtime AS status-service
COPY --from=build /build/target/release/status-service /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/status-service"]

FROM runtime AS jobs
COPY --from=build /build/target/release/jobs /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/jobs"]

FROM runtime AS gateway
COPY --from=build /build/target/release/gateway /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/gateway"]
