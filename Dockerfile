# Any builder takes this: no cache mounts, no heredocs, no frontend to fetch.

# Every crate, emptied: what comes out of this stage changes only when a manifest does.
FROM rust:1.95-bookworm AS manifests
WORKDIR /build
COPY . .
RUN find . -type f ! -name Cargo.toml ! -name Cargo.lock ! -path './.cargo/*' \
        ! -path '*/src/lib.rs' ! -path '*/src/main.rs' -delete \
    && find . -path '*/src/lib.rs' -exec truncate -s 0 {} + \
    && for main in $(find . -path '*/src/main.rs'); do echo 'fn main() {}' > "$main"; done \
    && find . -type d -empty -delete

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY --from=manifests /build .
RUN cargo build --release --locked -p posthaste-app
COPY . .
# cargo compares times, and what was just copied may be older than the emptied crates.
RUN find . -path '*/src/*.rs' -exec touch {} + \
    && cargo build --release --locked -p posthaste-app \
    && strip target/release/posthaste

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="posthaste" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /build/target/release/posthaste /usr/local/bin/posthaste
# Where SQLite's file and, without SMTP_URL, mail are kept; nothing else is written.
RUN install -d -o 10001 -g 10001 /var/lib/posthaste/data
WORKDIR /var/lib/posthaste
USER 10001:10001
ENV BIND_ADDRESS=0.0.0.0
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=20s --retries=3 \
    CMD ["/usr/local/bin/posthaste", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/posthaste"]
CMD ["serve"]
