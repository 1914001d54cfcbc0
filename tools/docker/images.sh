#!/bin/sh
# Build the stand-in images with the docker on the PATH, and push them to the registry that stands in for Docker Hub.
# Usage (as root): images.sh PROGRAMS REGISTRY: the folder that programs.sh has made, and the registry's host:port.
set -eu
programs=$1
registry=$2
here=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if ! docker image inspect debian:trixie-slim > "$work/inspected" 2>&1; then
  PATH="$programs/usr/bin:$PATH" mmdebstrap --quiet --variant=minbase --include=ca-certificates \
    --aptopt='Acquire::Languages "none"' --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    trixie "$work/base.tar" "$programs/etc/trixie.list"
  docker import "$work/base.tar" debian:trixie-slim
fi

# Certificates and index settings, so that builds reach package registries as this machine does.
mkdir -p "$work/host/etc/ssl/certs" "$work/host/etc/uv"
cp /etc/ssl/certs/ca-certificates.crt "$work/host/etc/ssl/certs/"
echo "native-tls = true" > "$work/host/etc/uv/uv.toml"
index=${PIP_INDEX_URL:-$(python3 -m pip config get global.index-url 2>/dev/null || true)}
if [ -n "$index" ]; then
  printf '[global]\nindex-url = %s\n' "$index" > "$work/host/etc/pip.conf"
  printf '[[index]]\nurl = "%s"\ndefault = true\n' "$index" >> "$work/host/etc/uv/uv.toml"
fi
HOST="$work/host" docker buildx bake --allow "fs.read=$work/host" --allow "fs.read=$here/images" --progress=quiet \
  -f "$here/images/docker-bake.hcl" --set "*.context=$here/images"

# `docker pull` expects official images under library/.
docker buildx bake --print -f "$here/images/docker-bake.hcl" 2>/dev/null | sed -n 's/^ *"\([a-z/]*:[^"]*\)",\{0,1\}$/\1/p' |
  while read -r image; do
    case $image in */*) there=$registry/$image ;; *) there=$registry/library/$image ;; esac
    docker tag "$image" "$there"
    docker push --quiet "$there"
    docker rmi "$there"
  done
