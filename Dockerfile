# The beacon binary, all roles in one image. Needs BuildKit (the default builder) for the cache mounts.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The caches outlive a build but are not part of the image, hence the copy in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/usr/local/cargo/git,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --locked --release -p cli --bin beacon \
    && cp target/release/beacon /usr/local/bin/beacon

FROM debian:12-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin beacon
COPY --from=build /usr/local/bin/beacon /usr/local/bin/beacon
USER 10001:10001
# Each role stops in order on SIGTERM: it takes no more work, then finishes what it has.
STOPSIGNAL SIGTERM
ENTRYPOINT ["beacon"]
CMD ["--help"]
