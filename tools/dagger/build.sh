#!/bin/sh
# Build Dagger's engine and command-line program from the pinned Go module beside this script.
# Usage: build.sh FOLDER. It needs Go, and takes about five minutes; with Go's caches, one.
set -eu
folder=$1
cd "$(dirname "$0")"
export CGO_ENABLED=0
version=$(go list -mod=readonly -m -f '{{.Version}}' github.com/dagger/dagger)
stamp="-s -w -X github.com/dagger/dagger/engine.Version=$version -X github.com/dagger/dagger/engine.Tag=$version"
rm -rf "$folder.new"
for pair in dagger:dagger engine:dagger-engine init:dagger-init dnsname:dnsname dialstdio:dial-stdio; do
  nice go build -mod=readonly -trimpath -tags dfexcludepatterns,dfparents -ldflags "$stamp" \
    -o "$folder.new/${pair#*:}" "github.com/dagger/dagger/cmd/${pair%:*}"
done
rm -rf "$folder"
mv "$folder.new" "$folder" # atomic and last: if the folder exists, it is complete
