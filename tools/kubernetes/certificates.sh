#!/bin/sh
# Make a certificate authority, certificates for each part of the cluster, and their kubeconfig files, in half a second.
set -eu
# shellcheck source=/dev/null
. "$(dirname "$0")/node.sh"
mkdir -p "$CERTIFICATES" "$CONFIG"
cd "$CERTIFICATES"

new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }

authority() {
  new_key "$1"
  openssl req -x509 -new -key "$1.key" -subj "/CN=$1" -days 30 -out "$1.crt" -addext basicConstraints=critical,CA:TRUE \
    -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature
}

certificate() { # NAME AUTHORITY SUBJECT [NAMES]
  new_key "$1"
  openssl req -new -key "$1.key" -subj "$3" -out "$1.csr"
  {
    echo "keyUsage=critical,digitalSignature,keyEncipherment"
    echo "extendedKeyUsage=serverAuth,clientAuth"
    echo "basicConstraints=CA:FALSE"
    [ -z "${4:-}" ] || echo "subjectAltName=$4"
  } > "$1.ext"
  openssl x509 -req -in "$1.csr" -CA "$2.crt" -CAkey "$2.key" -CAcreateserial -days 30 -extfile "$1.ext" -out "$1.crt"
}

kubeconfig() { # NAME CONTEXT
  cat > "$CONFIG/$1.kubeconfig" <<Y
apiVersion: v1
kind: Config
current-context: $2
clusters: [{name: $2, cluster: {server: "https://$NODE_IP:6443", certificate-authority: $CERTIFICATES/ca.crt}}]
users: [{name: $1, user: {client-certificate: $CERTIFICATES/$1.crt, client-key: $CERTIFICATES/$1.key}}]
contexts: [{name: $2, context: {cluster: $2, user: $1}}]
Y
}

{
  authority ca
  authority front-proxy-ca
  certificate apiserver ca /CN=kube-apiserver "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,\
DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:$API_SERVICE,IP:$NODE_IP,IP:127.0.0.1"
  certificate apiserver-kubelet-client ca /O=system:masters/CN=kube-apiserver-kubelet-client
  certificate front-proxy-client front-proxy-ca /CN=front-proxy-client
  certificate admin ca /O=system:masters/CN=admin
  certificate controller-manager ca /CN=system:kube-controller-manager
  certificate scheduler ca /CN=system:kube-scheduler
  certificate kube-proxy ca /CN=system:kube-proxy
  certificate kubelet ca "/O=system:nodes/CN=system:node:$NODE" "DNS:$NODE,IP:$NODE_IP"
  openssl genrsa -out service-accounts.key 2048
  openssl rsa -in service-accounts.key -pubout -out service-accounts.pub
} 2> openssl.log || { cat openssl.log >&2; exit 1; }
for name in admin controller-manager scheduler kube-proxy kubelet; do kubeconfig "$name" course; done
