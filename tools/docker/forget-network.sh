#!/bin/sh
# Take the rules and the bridge of a Docker daemon that has stopped out of this machine's network.
# Usage (root): forget-network.sh PROGRAMS, the folder of programs.sh.
set -eu
for libraries in "$1"/usr/lib/*-linux-gnu; do
  export LD_LIBRARY_PATH="$libraries" XTABLES_LIBDIR="$libraries/xtables"
done
for tables in iptables ip6tables; do
  "$1/usr/sbin/$tables-nft-save" | grep -vi docker | "$1/usr/sbin/$tables-nft-restore"
done
"$1/usr/sbin/iptables" -P FORWARD ACCEPT
[ ! -e /sys/class/net/docker0 ] || ip link delete docker0
