#!/bin/sh
# Rolling update: replace the replicas one at a time. An old replica stops when its replacement is healthy.
# Usage, in the folder of docker-compose.yml: VERSION=1.1.0 compose/rolling-update.sh
set -eu
old=$(docker compose ps --quiet agent)
more=$(($(echo "$old" | wc -l) + 1))
for replica in $old; do
  before=$(docker compose ps --all --quiet agent)
  if ! docker compose up --detach --wait --wait-timeout "${WAIT_SECONDS:-90}" --no-deps --no-recreate \
    --scale "agent=$more" agent; then
    echo "The new replica did not become healthy. It is removed, and the old ones keep running." >&2
    docker rm --force "$(docker compose ps --all --quiet agent | grep --invert-match --fixed-strings "$before")"
    exit 1
  fi
  docker stop "$replica"
  docker rm "$replica"
done
