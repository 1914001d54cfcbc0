# Builds all stand-ins: `docker buildx bake`. HOST is a folder with files that this machine adds to the Python image.
variable "HOST" {}

group "default" {
  targets = ["python", "redis", "prometheus", "haproxy"]
}

target "python" {
  target   = "python"
  tags     = ["python:3.13-slim", "python:3-slim"] # an exercise of lesson 05 builds on the second
  contexts = { host = HOST }
}

target "redis" {
  target = "redis"
  tags   = ["redis:8"]
}

target "prometheus" {
  target = "prometheus"
  tags   = ["prom/prometheus:v2.53.3"]
}

target "haproxy" {
  target = "haproxy"
  tags   = ["haproxy:3.0"]
}
