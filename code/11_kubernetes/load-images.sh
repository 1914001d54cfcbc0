#!/bin/sh
# Copy images from Docker into the cluster of a kubectl context, without a registry. Usage: load-images.sh CONTEXT IMAGE...
set -eu
context=$1
shift
case $context in
  kind-*) kind load docker-image --name "${context#kind-}" "$@" ;;
  k3d-*) k3d image import --cluster "${context#k3d-}" "$@" ;;
  minikube) for image in "$@"; do minikube image load "$image"; done ;;
  course) # the node that `make engine kubernetes` has started
    docker save "$@" | ctr --address /run/agents-in-containers/kubernetes/containerd.sock --namespace k8s.io images import - ;;
  *)
    echo "Push the images to a registry that the cluster of $context reaches: docker push ..." >&2
    exit 1 ;;
esac
