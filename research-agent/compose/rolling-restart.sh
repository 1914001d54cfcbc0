#!/bin/sh
# Restart the replicas one after the other, the next when the one before is healthy. In the folder of docker-compose.yml.
set -eu
for replica in $(docker compose ps --quiet agent); do
  docker restart "$replica"
  until [ "$(docker inspect --format '{{.State.Health.Status}}' "$replica")" = healthy ]; do sleep 0.2; done
done
