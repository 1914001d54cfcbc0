#!/bin/sh
# Unpack the Debian packages that a node needs into a folder, without installing them.
# Usage: programs.sh FOLDER. The container runtime, the network plugins, and the firewall's programs.
set -eu
folder=$1
packages="containerd runc containernetworking-plugins iptables ipset libip4tc2 libip6tc2 libipset13 libmnl0
  libnetfilter-conntrack3 libnfnetlink0 libnftnl11 libseccomp2 libxtables12"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
download() { apt-get -qq -o APT::Sandbox::User=root download "$@"; }

# shellcheck disable=SC2086  # word splitting is intended
download $packages 2>/dev/null || { apt-get -qq update && download $packages; }
for package in *.deb; do dpkg -x "$package" unpacked; done
for table in iptables ip6tables iptables-save ip6tables-save iptables-restore ip6tables-restore; do
  ln -s xtables-nft-multi "unpacked/usr/sbin/$table"
done
mkdir -p "$(dirname "$folder")"
rm -rf "$folder" "$folder.new"
mv unpacked "$folder.new"
mv "$folder.new" "$folder" # atomic and last: if the folder exists, it is complete
