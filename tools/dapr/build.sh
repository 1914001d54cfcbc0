#!/bin/sh
# Build Dapr's sidecar (daprd), placement and scheduler from the pinned Go module beside this script.
# Usage: build.sh FOLDER. The programs are in FOLDER/.dapr/bin then, as `dapr init` has them in the home folder.
# It needs Go, and takes about five minutes; with Go's caches, 15 seconds.
set -eu
folder=$1
cd "$(dirname "$0")"
export CGO_ENABLED=0
version=$(go list -mod=readonly -m -f '{{.Version}}' github.com/dapr/dapr)
rm -rf "$folder.new"
# The tag chooses which components are built in; without one, Dapr does not compile.
nice go build -mod=readonly -trimpath -tags stablecomponents \
  -ldflags "-s -w -X github.com/dapr/dapr/pkg/buildinfo.version=${version#v}" -o "$folder.new/.dapr/bin/" \
  ./daprd github.com/dapr/dapr/cmd/placement github.com/dapr/dapr/cmd/scheduler
rm -rf "$folder"
mv "$folder.new" "$folder" # atomic and last: if the folder exists, it is complete
