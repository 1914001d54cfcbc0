#!/bin/sh
# Make the images of a node's own pods with Docker, and save them. Usage: images.sh PROGRAMS FILE
set -eu
programs=$1
file=$2
here=$(dirname "$0")
for name in pause coredns metrics-server; do
  docker build --quiet --target "$name" --tag "localhost/$name:1" --build-context "programs=$programs/bin" "$here/images"
done
docker save --output "$file.new" localhost/pause:1 localhost/coredns:1 localhost/metrics-server:1
docker rmi localhost/pause:1 localhost/coredns:1 localhost/metrics-server:1
mv "$file.new" "$file"
