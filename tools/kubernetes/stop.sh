#!/bin/sh
# Stop what start.sh has started, by the recorded process ids, and remove its network, mounts and control groups.
set -u
here=$(dirname "$0")
# shellcheck source=/dev/null
. "$here/node.sh"
[ -d "$RUN" ] || exit 0 # start.sh has refused to start, so everything here is another cluster's

stop() {
  [ -f "$RUN/pids/$1" ] || return 0
  pid=$(cat "$RUN/pids/$1")
  kill "$pid" 2> /dev/null
  tries=0
  while kill -0 "$pid" 2> /dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 200 ] || kill -9 "$pid"
    [ $tries -lt 300 ] || break # it is dead, and nothing has collected its exit status
    sleep 0.1
  done
  rm "$RUN/pids/$1"
}

# After a crash, a recorded process id may be another program's.
for file in "$RUN"/pids/*; do
  grep -sqF -- "$RUN/" "/proc/$(cat "$file" 2> /dev/null)/cmdline" || rm -f "$file"
done
agents="kubelet kube-proxy kube-router scheduler controller-manager"
for name in $agents; do kill "$(cat "$RUN/pids/$name" 2> /dev/null || echo none)" 2> /dev/null; done
for name in $agents; do stop "$name"; done
if images version > /dev/null 2>&1; then
  images tasks ls -q | xargs -r -P 8 -n 1 ctr --address "$SOCKET" --namespace k8s.io tasks rm -f > /dev/null 2>&1
fi
for name in kube-apiserver etcd containerd; do stop "$name"; done
# A container's shim outlives the runtime. Ours have the runtime's socket on their command line.
grep -lzF -- "$SOCKET" /proc/[0-9]*/cmdline 2> /dev/null | cut -d/ -f3 | while read -r shim; do
  [ "$(cat "/proc/$shim/comm" 2> /dev/null)" != containerd-shim ] || kill -9 "$shim"
done
# Without the runtime, containers outlive their shims. start.sh has made sure that no other kubelet has this group.
groups=$(find /sys/fs/cgroup -maxdepth 2 -name kubepods)
for group in $groups; do find "$group" -name cgroup.procs -exec cat {} + | sort -u | xargs -r kill -9; done
awk '{print $2}' /proc/mounts | grep -E "^($RUN|$CACHE)/" | sort -r | xargs -r -n 1 umount --lazy
# The plugins note the network namespace of each pod, under the name of the network.
for note in /var/lib/cni/results/course-pods-*-eth0; do
  [ -e "$note" ] || continue
  grep -oE 'cni-[0-9a-f]+(-[0-9a-f]+){4}' "$note" | sort -u | xargs -r -n 1 ip netns delete 2> /dev/null
  pod=${note##*/course-pods-}
  rm -f "$note" "/var/lib/cni/results/cni-loopback-${pod%-eth0}-lo"
done
ip link delete course-host 2> /dev/null
ip netns delete "$NAMESPACE" 2> /dev/null
for group in $groups; do find "$group" -depth -type d -exec rmdir {} \;; done
sysctl -qp "$RUN/kernel"
rm -rf "$RUN" "$CACHE/containerd"
# These have fixed places.
find /var/log/containers -xtype l -delete 2> /dev/null
rm -f /var/lib/kubelet/device-plugins/kubelet.sock
rmdir /run/containerd/runc/k8s.io /run/containerd/runc /var/lib/cni/results /var/lib/cni \
  /var/lib/kubelet/device-plugins /var/lib/kubelet /var/log/containers 2> /dev/null
true
