#!/bin/sh
# As the original's: options alone go to haproxy, which stays in the foreground with a master (-W) and no daemon (-db).
set -eu
case "$1" in -*) set -- haproxy "$@" ;; esac
if [ "$1" = haproxy ]; then
  shift
  set -- haproxy -W -db "$@"
fi
exec "$@"
