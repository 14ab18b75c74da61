# docker build --build-arg VERSION=1.2.3 -t tidepool .
# docker run --read-only -p 127.0.0.1:5000:5000 -v tidepool:/var/lib/tidepool tidepool

FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=
ARG TARGETOS
ARG TARGETARCH
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o /out/usr/bin/tidepool ./cmd/tidepool
RUN mkdir -p /out/etc/ssl/certs /out/tmp /data && \
    echo 'tidepool:x:65532:65532::/var/lib/tidepool:/sbin/nologin' >/out/etc/passwd && \
    echo 'tidepool:x:65532:' >/out/etc/group && \
    cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ && chmod 1777 /out/tmp

FROM scratch
ARG VERSION=
LABEL org.opencontainers.image.title="tidepool" \
      org.opencontainers.image.description="A pull-through caching registry proxy" \
      org.opencontainers.image.source="https://github.com/tidepool-oci/tidepool" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION"
COPY --from=build /out /
# A volume that is made from the image takes over the owner of its directory.
COPY --from=build --chown=65532:65532 /data /var/lib/tidepool
USER 65532:65532
# In a container loopback is of no use; who may come in is decided by the ports that are published. The admin listener
# stays on loopback, where the health check is: set TIDEPOOL_ADMIN=:5001 to have it scraped.
# Both stand over listen: and data: of a configuration file.
ENV TIDEPOOL_LISTEN=:5000 \
    TIDEPOOL_DATA=/var/lib/tidepool
VOLUME /var/lib/tidepool
EXPOSE 5000 5001
HEALTHCHECK --interval=30s --timeout=6s --start-period=10s CMD ["/usr/bin/tidepool", "health"]
ENTRYPOINT ["/usr/bin/tidepool"]
CMD ["serve"]
