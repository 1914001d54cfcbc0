#!/bin/sh
# Start the engine in a container that has all that it needs for containers of its own.
# Usage (as root): run.sh NAME IMAGE STATE RUN: the folder STATE keeps the cache, and RUN has the socket.
# This is what `docker run --privileged` does, which Docker refuses where root lacks a capability.
set -eu
docker rm --force "$1" > /dev/null 2>&1
mkdir -p "$3" "$4"
exec docker run --detach --name "$1" --restart no --network host \
  --cap-add ALL --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
  --security-opt systempaths=unconfined --device-cgroup-rule='a *:* rwm' \
  --cgroupns host --volume /sys/fs/cgroup:/sys/fs/cgroup:rw \
  --volume "$3:/var/lib/dagger" --volume "$4:/run/dagger" \
  --volume "$(dirname "$(readlink -f "$0")")/engine.json:/etc/dagger/engine.json:ro" "$2"
