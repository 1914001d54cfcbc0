#!/bin/sh
# Like the original entrypoint: options are passed to haproxy, which runs in the foreground (-db) in master mode (-W).
set -eu
case "$1" in -*) set -- haproxy "$@" ;; esac
if [ "$1" = haproxy ]; then
  shift
  set -- haproxy -W -db "$@"
fi
exec "$@"
