#!/bin/sh
# Remove the firewall rules and the bridge that a stopped Docker daemon left behind.
# Usage (as root): forget-network.sh PROGRAMS, where PROGRAMS is the folder that programs.sh has made.
set -eu
for libraries in "$1"/usr/lib/*-linux-gnu; do
  export LD_LIBRARY_PATH="$libraries" XTABLES_LIBDIR="$libraries/xtables"
done
for tables in iptables ip6tables; do
  "$1/usr/sbin/$tables-nft-save" | grep -vi docker | "$1/usr/sbin/$tables-nft-restore"
done
"$1/usr/sbin/iptables" -P FORWARD ACCEPT
[ ! -e /sys/class/net/docker0 ] || ip link delete docker0
