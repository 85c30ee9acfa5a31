# Every verb is a script of its own under scripts/, each with -h.
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

up: ## bring the lab up, wait until it works, draw it
	@scripts/up

down: ## take the lab away, with its data, certificates and passwords
	@scripts/down

status: ## draw the lab as it stands
	@scripts/status

images: ## make the lab's images, so that `docker compose up` works alone
	@scripts/images

test: ## everything: lint, unit, kernel and end-to-end tests
	@scripts/test

unit: ## unit tests, with the race detector
	@scripts/test unit

test-kernel: ## tests in network namespaces, User Mode Linux and qemu; as root
	@scripts/test kernel

e2e: ## the stories, against a lab that is up, or one made for them
	@scripts/test e2e

lint: ## gofmt, vet, staticcheck, import rules
	@scripts/lint

generate: ## make the generated code from proto/
	@scripts/generate

build: ## build the programs of all services into dist/bin
	@scripts/build

fuzz: ## run each fuzz target for FUZZTIME (10s)
	@scripts/fuzz

fuzz-requests: ## odd requests at random: do all servers read what the router passes on alike?
	@scripts/fuzz-requests

bench-router: ## l7-router against HAProxy, as lines of JSON; BENCH=quick is under 50 s
	@scripts/bench-router

slow-router: ## what slowhttptest leaves to good clients of the l7-router, and of HAProxy
	@scripts/slow-router

bench-vrrp: ## vrrp-agent against keepalived, as root, as lines of JSON; BENCH=quick takes 2 minutes
	@scripts/bench-vrrp

bench-director: ## the data planes of the ipvs-director, as root, as lines of JSON; BENCH=quick is one round
	@scripts/bench-director

drill-director: ## the long forms of the ipvs-director's tests, as root, after scripts/qemu-kernel; 12 minutes or more
	@scripts/drill-director

drill-vrrp: ## the long forms of the vrrp-agent's drills, as root; about 45 minutes
	@scripts/drill-vrrp

soak-router: ## l7-router under load for SOAK (30m) while checks fail at random; a line of JSON
	@scripts/soak-router

clean: ## remove what was built
	rm -rf dist

.PHONY: help up down status images test unit test-kernel e2e lint generate build fuzz fuzz-requests bench-router slow-router bench-vrrp bench-director drill-director drill-vrrp soak-router clean
