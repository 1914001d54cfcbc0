#!/bin/sh
# Build Kubernetes and what a node needs beside it, from the Go modules that are pinned beside this script.
# Usage: build.sh FOLDER. The programs are in FOLDER/bin then. It needs Go, and takes seven minutes; with Go's caches,
# half a minute. What an interrupted build has compiled is in Go's cache, so that the next one goes on from there.
set -eu
folder=$1
cd "$(dirname "$0")/cluster"
export CGO_ENABLED=0
bin=$folder.new/bin
rm -rf "$folder.new"
mkdir -p "$bin"
build() { nice go build -mod=readonly -trimpath -buildvcs=false -ldflags "$1" -o "$bin/$2" "$3"; }

version=$(go list -mod=readonly -m -f '{{.Version}}' k8s.io/kubernetes)
minor=${version#v1.}
stamp="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  stamp="$stamp -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=${minor%.*} \
    -X $package.gitTreeState=clean -X $package.gitCommit=unknown -X $package.buildDate=1970-01-01T00:00:00Z"
done
build "$stamp" kubernetes .
for part in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do
  ln -s kubernetes "$bin/$part"
done

cd ../addons # a module of its own, because its parts want other versions of the same libraries
build "-s -w" coredns ./coredns
build "-s -w" pause ./pause
build "-s -w" metrics-server sigs.k8s.io/metrics-server/cmd/metrics-server
build "-s -w" kube-router github.com/cloudnativelabs/kube-router/cmd/kube-router

rm -rf "$folder"
mv "$folder.new" "$folder" # atomic and last: if the folder exists, it is complete
