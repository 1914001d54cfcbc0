#!/bin/sh
# Unpack Docker's Debian packages into a folder, without installing them, on Debian 12 or newer.
# Usage: programs.sh FOLDER. Docker comes from Debian 14 (forky): the BuildKit of Debian 12 lacks `COPY --link`, and that of
# Debian 13 can crash, and end the daemon, when two builds that share steps run at once (moby/buildkit, pull request 5606).
# Programs that must match this machine's C library (runc, iptables, the registry) come from its own release. Both come
# from the mirror that this machine uses.
set -eu
folder=$1
own="docker-registry runc mmdebstrap iptables libip4tc2 libip6tc2 libmnl0 libnetfilter-conntrack3 libnfnetlink0 libnftnl11 libxtables12 tini"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -p "$work/lists/partial" "$work/debs"
cd "$work/debs"
download() { apt-get -qq -o APT::Sandbox::User=root download "$@"; }

# shellcheck disable=SC2086  # word splitting is intended
download $own 2>/dev/null || { apt-get -qq update && download $own; }

# shellcheck source=/dev/null
. /etc/os-release
keys=/usr/share/keyrings/debian-archive-keyring.gpg
for release in trixie forky; do
  apt-get indextargets --format "deb [signed-by=$keys] \$(REPO_URI) \$(RELEASE) \$(COMPONENT)" \
    "Created-By: Packages" "Origin: Debian" | sed "s/ $VERSION_CODENAME/ $release/" | sort -u > "$work/$release.list"
done
forky() {
  apt-get -qq -o APT::Sandbox::User=root -o Dir::Etc::sourcelist="$work/forky.list" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::State::Lists="$work/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= "$@"
}
forky update
forky download docker.io docker-cli docker-buildx docker-compose containerd

for package in *.deb; do dpkg -x "$package" "$work/unpacked"; done
(cd "$work/unpacked/usr" && rm -r bin/ctr lib/containerd lib/cni) # 53 MB that Docker does not use
ln -s iptables-nft "$work/unpacked/usr/sbin/iptables"
ln -s ip6tables-nft "$work/unpacked/usr/sbin/ip6tables"
mkdir -p "$work/unpacked/etc" "$work/unpacked/config/cli-plugins"
ln -s ../../usr/libexec/docker/cli-plugins/docker-buildx ../../usr/libexec/docker/cli-plugins/docker-compose \
  "$work/unpacked/config/cli-plugins/"
cp "$work/trixie.list" "$work/unpacked/etc/trixie.list" # images.sh builds the base image from it
mkdir -p "$(dirname "$folder")"
rm -rf "$folder"
mv "$work/unpacked" "$folder.new"
mv "$folder.new" "$folder" # atomic and last: if the folder exists, it is complete
