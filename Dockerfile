# Builds the images of hack/images.sh with Docker:
#
#   docker build --target agent      -t ghcr.io/spidernet-io/spiderpool/spiderpool-agent:v0.1.0 .
#   docker build --target controller -t ghcr.io/spidernet-io/spiderpool/spiderpool-controller:v0.1.0 .
FROM golang:1.26 AS build
ARG VERSION=v0.1.0
ENV CGO_ENABLED=0
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY api api
COPY cmd cmd
COPY internal internal
RUN go build -tags=grpcnotrace -trimpath -ldflags="-s -w -X spiderpool.dev/spiderpool/internal/config.Version=${VERSION}" -o /bin/ ./cmd/...

FROM scratch AS agent
COPY LICENSE /licenses/LICENSE
COPY --from=build /bin/spiderpool-agent /bin/spiderpoolctl /bin/cni-install /usr/bin/
COPY --from=build /bin/spiderpool /bin/coordinator /bin/ifacer /opt/spiderpool/cni/
ENTRYPOINT ["/usr/bin/spiderpool-agent"]

FROM scratch AS controller
COPY LICENSE /licenses/LICENSE
COPY --from=build /bin/spiderpool-controller /bin/spiderpool-init /usr/bin/
ENTRYPOINT ["/usr/bin/spiderpool-controller"]
