# Settings and functions that the other scripts share.
# shellcheck shell=sh disable=SC2034
CACHE=${COURSE_KUBERNETES:?names the folder with programs/, debian/ and images.tar}
RUN=/run/agents-in-containers/kubernetes # all that a running node writes; a reboot empties it
NAMESPACE=course-node                    # the network namespace that is "the machine"
HOST_IP=10.89.0.1
NODE_IP=10.89.0.2
NODE=node-1
PODS=10.244.0.0/24
SERVICES=10.96.0.0/16
API_SERVICE=10.96.0.1
DNS_SERVICE=10.96.0.10
CERTIFICATES=$RUN/certificates
CONFIG=$RUN/config
SOCKET=$RUN/containerd.sock
KUBECONFIG=$CONFIG/admin.kubeconfig
for LD_LIBRARY_PATH in "$CACHE"/debian/usr/lib/*-linux-gnu; do :; done
XTABLES_LIBDIR=$LD_LIBRARY_PATH/xtables
PATH=$CACHE/programs/bin:$CACHE/debian/usr/sbin:$CACHE/debian/usr/bin:$PATH
export KUBECONFIG LD_LIBRARY_PATH XTABLES_LIBDIR PATH

images() { ctr --address "$SOCKET" --namespace k8s.io "$@"; }

# Wait for a command to succeed, for two minutes: the machine may be busy.
wait_for() {
  deadline=$(($(date +%s) + 120))
  until "$@" > "$RUN/log/waiting" 2>&1; do
    if [ "$(date +%s)" -gt $deadline ]; then
      echo "This did not succeed within two minutes: $*" >&2
      cat "$RUN/log/waiting" >&2
      tail -n 5 "$RUN"/log/*.log >&2
      exit 1
    fi
    sleep 0.1
  done
}
