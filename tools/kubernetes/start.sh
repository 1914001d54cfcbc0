#!/bin/sh
# Start one real node from nothing, in about ten seconds, as root: control plane, kubelet, container runtime, network.
# The machine's own network stays as it is: the node is a network namespace, joined to the host by a pair of interfaces,
# and the host has a route to its pods and Services.
set -eu
here=$(dirname "$0")
# shellcheck source=/dev/null
. "$here/node.sh"
if [ -n "$(find /sys/fs/cgroup -maxdepth 2 \( -name kubepods -o -name kubepods.slice \))" ]; then
  echo "A kubelet runs on this machine. Name its context instead: KUBE_CONTEXT=..." >&2
  exit 1
fi
mkdir -p "$RUN/pids" "$RUN/log" "$RUN/cni/net.d" "$RUN/volumes" "$CONFIG"
# The kubelet changes these settings of the kernel; stop.sh brings them back.
sysctl vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops \
  kernel.keys.root_maxkeys kernel.keys.root_maxbytes > "$RUN/kernel"

ip netns add "$NAMESPACE"
ip link add course-host type veth peer name course-node netns "$NAMESPACE"
ip address add "$HOST_IP/24" dev course-host
ip link set course-host up
ip -n "$NAMESPACE" address add "$NODE_IP/24" dev course-node
ip -n "$NAMESPACE" link set lo up
ip -n "$NAMESPACE" link set course-node up
ip -n "$NAMESPACE" route add default via "$HOST_IP" # kubelet and API server want one; nothing forwards what it gets
ip route add "$SERVICES" via "$NODE_IP"
ip route add "$PODS" via "$NODE_IP"
nsenter --net="/run/netns/$NAMESPACE" sysctl -qw net.ipv4.ip_forward=1

"$here/certificates.sh"
"$here/service.sh" etcd

cat > "$CONFIG/containerd.toml" <<Y
version = 2
root = "$CACHE/containerd"
state = "$RUN/containerd"
[grpc]
  address = "$SOCKET"
[plugins."io.containerd.internal.v1.opt"]
  path = "$RUN/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  stream_server_address = "127.0.0.1"
  restrict_oom_score_adj = true  # inside a container, root may not lower it
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$CACHE/debian/usr/lib/cni"
    conf_dir = "$RUN/cni/net.d"
Y
cat > "$RUN/cni/net.d/10-bridge.conflist" <<Y
{"cniVersion": "0.4.0", "name": "course-pods", "plugins": [
 {"type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": false, "hairpinMode": true, "mtu": 1400,
  "ipam": {"type": "host-local", "dataDir": "$RUN/cni/addresses", "ranges": [[{"subnet": "$PODS"}]],
           "routes": [{"dst": "0.0.0.0/0"}]}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}
Y
"$here/service.sh" containerd
wait_for nsenter --net="/run/netns/$NAMESPACE" curl -sf http://127.0.0.1:12379/health
"$here/service.sh" kube-apiserver
wait_for images version
images images import "$CACHE/images.tar" > "$RUN/log/import.log" 2>&1 &
import=$!
wait_for kubectl get --raw /readyz
"$here/service.sh" controller-manager
"$here/service.sh" scheduler

: > "$CONFIG/resolv.conf"
cat > "$CONFIG/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $NODE_IP
port: 10250
readOnlyPort: 0
healthzBindAddress: 127.0.0.1
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $CERTIFICATES/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $CERTIFICATES/kubelet.crt
tlsPrivateKeyFile: $CERTIFICATES/kubelet.key
containerRuntimeEndpoint: unix://$SOCKET
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
clusterDomain: cluster.local
clusterDNS: [$DNS_SERVICE]
resolvConf: $CONFIG/resolv.conf
podLogsDir: $RUN/pod-logs
volumePluginDir: $RUN/volume-plugins
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: "1%", imagefs.available: "1%", nodefs.inodesFree: "1%"}
nodeStatusUpdateFrequency: 5s
syncFrequency: 10s # a changed Secret reaches its pods within this time, instead of a minute
oomScoreAdj: 0
maxOpenFiles: 65536
Y
"$here/service.sh" kubelet
cat > "$CONFIG/kube-proxy.yaml" <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $CONFIG/kube-proxy.kubeconfig}
mode: iptables
clusterCIDR: $PODS
hostnameOverride: $NODE
bindAddress: $NODE_IP
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
nodePortAddresses: ["$NODE_IP/32"]
oomScoreAdj: 0
iptables: {localhostNodePorts: false, syncPeriod: 30s, minSyncPeriod: 100ms}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
Y
"$here/service.sh" kube-proxy

# Volumes: folders of the node, for whoever claims them. Other clusters have a provisioner that makes them on demand.
for number in $(seq 40); do
  mkdir -p "$RUN/volumes/$number"
  cat <<Y
apiVersion: v1
kind: PersistentVolume
metadata: {name: volume-$number}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: standard
  local: {path: $RUN/volumes/$number}
  nodeAffinity:
    required:
      nodeSelectorTerms:
        - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$NODE]}]
---
Y
done > "$CONFIG/volumes.yaml"
kubectl apply -f "$CONFIG/volumes.yaml" -f "$here/manifests" > "$RUN/log/addons.log"
wait_for kubectl get "node/$NODE"
wait $import
kubectl wait "node/$NODE" --for=condition=Ready --timeout=120s
"$here/service.sh" kube-router
kubectl -n kube-system rollout status deployment/coredns --timeout=120s
