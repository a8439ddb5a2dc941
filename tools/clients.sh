#!/usr/bin/env bash
# Makes the clients in other languages, for `make test-clients`: Node.js packages in clients/node, programs in
# build/clients/. Root on Debian gets the toolchains here.
#
# Go is built from Debian's packages, without modules, so that nothing but a package mirror need be reached.
set -euo pipefail
cd "$(dirname "$0")/.."

debian=(
    cmake g++ pkg-config libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
    golang-go golang-google-grpc-dev golang-google-protobuf-dev golang-google-genproto-dev
    golang-github-golang-protobuf-1-5-dev protoc-gen-go protoc-gen-go-grpc
)
command -v node >/dev/null && command -v npm >/dev/null || debian+=(nodejs npm)

num_installed=$(dpkg-query --show --showformat '${db:Status-Status}\n' "${debian[@]}" 2>/dev/null | grep -cx installed || true)
if [[ $num_installed != "${#debian[@]}" ]]; then
    if [[ $EUID != 0 ]] || ! command -v apt-get >/dev/null; then
        echo "clients: on Debian or Ubuntu run: sudo apt-get install ${debian[*]}" >&2
        exit 1
    fi
    echo "clients: installing ${debian[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends "${debian[@]}" >/dev/null
fi

echo "clients: Node.js"
npm ci --prefix clients/node --no-audit --no-fund --ignore-scripts --loglevel=error

echo "clients: C++"
cmake -S clients/cpp -B build/clients/cpp >/dev/null
cmake --build build/clients/cpp --parallel 2 >/dev/null

echo "clients: Go"
protoc -I protos --go_out=clients/go --go_opt=module=quire --go-grpc_out=clients/go --go-grpc_opt=module=quire \
    quire/v1/inference.proto
gopath=$PWD/build/clients/gopath
mkdir -p "$gopath/src"
ln -sfn "$PWD/clients/go" "$gopath/src/quire"
for program in generate conformance; do
    GO111MODULE=off GOFLAGS= GOCACHE=$gopath/cache GOPATH=$gopath:/usr/share/gocode \
        go build -o "build/clients/go/$program" "quire/$program"
done
