#!/bin/sh
# Replace the replicas one after the other by those of another version, in the folder of docker-compose.yml:
# VERSION=1.1.0 compose/rolling-update.sh. An old replica is stopped when a new one is healthy.
set -eu
old=$(docker compose ps --quiet agent)
more=$(($(echo "$old" | wc -l) + 1))
for replica in $old; do
  before=$(docker compose ps --all --quiet agent)
  if ! docker compose up --detach --wait --wait-timeout "${WAIT_SECONDS:-90}" --no-deps --no-recreate \
    --scale "agent=$more" agent; then
    echo "The new replica does not turn healthy. It is removed, and the others stay." >&2
    docker rm --force "$(docker compose ps --all --quiet agent | grep --invert-match --fixed-strings "$before")"
    exit 1
  fi
  docker stop "$replica"
  docker rm "$replica"
done
