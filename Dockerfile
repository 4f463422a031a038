# syntax=docker/dockerfile:1
# docker build --build-arg VERSION=1.2.3 --build-arg COMMIT="$(git rev-parse HEAD)" --build-arg DATE="$(date -u +%FT%TZ)" -t meterd .

FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG VERSION=dev
ARG COMMIT=unknown
ARG DATE=unknown
ARG TARGETOS
ARG TARGETARCH
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath \
      -ldflags "-s -w -X main.version=$VERSION -X main.commit=$COMMIT -X main.date=$DATE" \
      -o /out/meterd ./cmd/meterd && \
    mkdir -p /out/state

# No shell and no package manager: a static binary, CA certificates, time zones, and a user.
FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/meterd /meterd
COPY --from=build --chown=65532:65532 /out/state /var/lib/meterd
ENV METERD_STATE_DIR=/var/lib/meterd
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/meterd"]
CMD ["run"]
