#!/bin/sh
# Make an image of the sidecar that build.sh has built. Usage: image.sh FOLDER IMAGE
set -eu
docker build --quiet --tag "$2" --file "$(dirname "$0")/Dockerfile" "$1/.dapr/bin"
