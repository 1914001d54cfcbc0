#!/bin/sh
# Start one service of the node in its network namespace; its process id is in RUN/pids. Usage: service.sh NAME
set -eu
here=$(dirname "$0")
# shellcheck source=/dev/null
. "$here/node.sh"
name=$1

identity="--authentication-kubeconfig=$CONFIG/$name.kubeconfig --authorization-kubeconfig=$CONFIG/$name.kubeconfig"
# shellcheck disable=SC2086  # word splitting is intended
case $name in
  etcd) # without fsync: a node that loses its power starts from nothing anyway
    set -- etcd --name=node --data-dir="$RUN/etcd" --unsafe-no-fsync \
      --listen-client-urls=http://127.0.0.1:12379 --advertise-client-urls=http://127.0.0.1:12379 \
      --listen-peer-urls=http://127.0.0.1:12380 --initial-advertise-peer-urls=http://127.0.0.1:12380 \
      --initial-cluster=node=http://127.0.0.1:12380 ;;
  containerd)
    set -- containerd --config "$CONFIG/containerd.toml" ;;
  kube-apiserver)
    set -- kube-apiserver --etcd-servers=http://127.0.0.1:12379 --bind-address=$NODE_IP --advertise-address=$NODE_IP \
      --secure-port=6443 --service-cluster-ip-range=$SERVICES --authorization-mode=Node,RBAC \
      --enable-admission-plugins=NodeRestriction --allow-privileged=true --client-ca-file="$CERTIFICATES/ca.crt" \
      --tls-cert-file="$CERTIFICATES/apiserver.crt" --tls-private-key-file="$CERTIFICATES/apiserver.key" \
      --kubelet-certificate-authority="$CERTIFICATES/ca.crt" --kubelet-preferred-address-types=InternalIP \
      --kubelet-client-certificate="$CERTIFICATES/apiserver-kubelet-client.crt" \
      --kubelet-client-key="$CERTIFICATES/apiserver-kubelet-client.key" \
      --service-account-issuer=https://kubernetes.default.svc.cluster.local \
      --service-account-key-file="$CERTIFICATES/service-accounts.pub" \
      --service-account-signing-key-file="$CERTIFICATES/service-accounts.key" \
      --requestheader-client-ca-file="$CERTIFICATES/front-proxy-ca.crt" --requestheader-allowed-names=front-proxy-client \
      --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
      --requestheader-extra-headers-prefix=X-Remote-Extra- --enable-aggregator-routing=true \
      --proxy-client-cert-file="$CERTIFICATES/front-proxy-client.crt" \
      --proxy-client-key-file="$CERTIFICATES/front-proxy-client.key" ;;
  controller-manager) # the autoscaler decides every five seconds, and forgets a peak after twenty
    set -- kube-controller-manager --kubeconfig="$CONFIG/$name.kubeconfig" $identity --bind-address=127.0.0.1 \
      --leader-elect=false --use-service-account-credentials=true --root-ca-file="$CERTIFICATES/ca.crt" \
      --service-account-private-key-file="$CERTIFICATES/service-accounts.key" --client-ca-file="$CERTIFICATES/ca.crt" \
      --requestheader-client-ca-file="$CERTIFICATES/front-proxy-ca.crt" --allocate-node-cidrs=false \
      --cluster-signing-cert-file="$CERTIFICATES/ca.crt" --cluster-signing-key-file="$CERTIFICATES/ca.key" \
      --service-cluster-ip-range=$SERVICES --horizontal-pod-autoscaler-sync-period=5s \
      --horizontal-pod-autoscaler-downscale-stabilization=20s \
      --horizontal-pod-autoscaler-cpu-initialization-period=10s \
      --horizontal-pod-autoscaler-initial-readiness-delay=5s ;;
  scheduler)
    set -- kube-scheduler --kubeconfig="$CONFIG/$name.kubeconfig" $identity --bind-address=127.0.0.1 \
      --leader-elect=false ;;
  kubelet)
    set -- kubelet --config="$CONFIG/kubelet.yaml" --kubeconfig="$CONFIG/kubelet.kubeconfig" --node-ip=$NODE_IP \
      --hostname-override=$NODE --root-dir="$RUN/kubelet" --cert-dir="$RUN/kubelet-certificates" ;;
  kube-proxy)
    set -- kube-proxy --config="$CONFIG/kube-proxy.yaml" ;;
  kube-router) # enforces network policies, and does nothing else
    set -- kube-router --run-firewall=true --run-router=false --run-service-proxy=false --kubeconfig="$KUBECONFIG" \
      --hostname-override=$NODE --service-cluster-ip-range=$SERVICES --service-node-port-range=30000-32767 \
      --health-port=20244 --metrics-port=20245 --iptables-sync-period=30s ;;
  *)
    echo "There is no service $name." >&2
    exit 2 ;;
esac
setsid nsenter --net="/run/netns/$NAMESPACE" "$@" < /dev/null > "$RUN/log/$name.log" 2>&1 &
echo $! > "$RUN/pids/$name"
