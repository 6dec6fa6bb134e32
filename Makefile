# `make` or `make help` lists the targets. A target installs or builds its own
# dependencies. Long builds are cached outside the checkout.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -ec
.DEFAULT_GOAL := help

VERSION  ?= v0.1.0
TOPOLOGY ?= aws
RUN      ?= .
N        ?= 40
ARCH     ?=
RELAY    ?=
ARGS     ?=
WALK     ?= guide
SET      ?= conformance
SERVICE_MODE ?=
NODES    ?= 0

BIN      ?= bin
LAB      := bin/lab
TOOL     := go tool -modfile=tools/go.mod
# Programs and tests share these flags, so that Go compiles a package once for both, and for all checkouts.
export CGO_ENABLED := 0
export GOFLAGS     := $(strip $(filter-out -trimpath,$(GOFLAGS)) -trimpath)
# grpc's tag leaves out x/net/trace and, with it, html/template: the agent becomes 7 MB smaller.
GOBUILD  := GOARCH=$(ARCH) go build -tags=grpcnotrace -ldflags='-s -w -X spiderpool.dev/spiderpool/internal/config.Version=$(VERSION)'
PROGRAMS := $(notdir $(wildcard cmd/*))

# The packages with tests against a real kube-apiserver. Their suite runs their hermetic tests, too.
APISERVER := $(addprefix ./,$(sort $(patsubst %/,%,$(dir $(shell grep -rlE '^//go:build .*apiserver' --include='*_test.go' internal charts)))))
UNIT      ?= ./...

# The lab is a separate Go module.
LABGO    := go -C test/lab

export PATH := /usr/local/go/bin:$(PATH)

##@ For users

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  TOPOLOGY=aws|l2 selects the lab's network (now $(TOPOLOGY)), RUN=regexp selects tests."

.PHONY: demo
demo: lab-tools images ## Bring up the lab, install the chart, run the AWS guide (WALK=zero-touch or on-demand: its chapters of these names), and leave the cluster up
	@go run ./test/e2e/demo --lab $(LAB) --topology $(TOPOLOGY) --walk '$(WALK)'

.PHONY: lab-up
lab-up: lab-tools ## Bring up the lab only: a real Kubernetes on a simulated VPC
	@$(LAB) up --topology $(TOPOLOGY)

.PHONY: lab-down
lab-down: $(LAB) ## Take the lab down completely
	@$(LAB) down

.PHONY: fake-cloud
fake-cloud: ## Run a fake Amazon EC2 on loopback, with the VPC of the AWS guide (ARGS=--help for its flags)
	@go run ./test/fakecloud $(ARGS)

##@ Install on your cluster

.PHONY: images
images: $(LAB) build $(if $(RELAY),bin/hubble-relay) ## Build the container images without a Docker daemon (ARCH=arm64 for another architecture, RELAY=1 with hubble-relay)
	@RELAY=$(RELAY) hack/images.sh $(ARCH)

.PHONY: chart
chart: ## Package the chart into dist/ (needs helm)
	@command -v helm >/dev/null || { echo "chart: helm is missing; install Helm 3.14 or later: https://helm.sh/docs/intro/install/" >&2; exit 1; }
	@helm package charts/spiderpool --destination dist

.PHONY: load
load: ## Load the images into a cluster: TO=kind[:CLUSTER], minikube, containerd[:HOST,…], k3s, rke2 or registry:HOST/PATH
	@hack/load.sh '$(TO)'

##@ Build

.PHONY: docs
docs: ## Build the documentation as a site into bin/site, and check all links
	@go -C hack/site run . --root $(CURDIR) --out $(CURDIR)/bin/site

.PHONY: build
build: $(addprefix $(BIN)/,$(PROGRAMS)) ## Build every program into bin/

$(BIN)/%: FORCE
	@$(GOBUILD) -o $@ ./cmd/$*

# The unmodified programs of Hubble, for tests and for the image of hubble-relay.
$(BIN)/hubble $(BIN)/hubble-relay: $(BIN)/%: FORCE
	@GOARCH=$(ARCH) go -C test/hubble build -ldflags='-s -w' -o $(CURDIR)/$@ github.com/cilium/cilium/$*

$(LAB): FORCE
	@mkdir -p bin && $(LABGO) build -o $(CURDIR)/$(LAB) .

.PHONY: lab-tools
lab-tools: $(LAB) ## Build the lab's Kubernetes, containerd, multus, helm and kernel (cached; ~25 min the first time)
	@$(LAB) build

##@ Release

.PHONY: release
release: $(LAB) ## Build the release of the commit into dist/release/: images, spiderpoolctl, chart, SBOM, provenance, checksums (COSIGN_PRIVATE_KEY signs them)
	@hack/release.sh

.PHONY: release-check
release-check: ## Build the release twice, in different directories and caches, compare the files, and run the arm64 programs
	@hack/release-check.sh

##@ Test

.PHONY: test
test: ## Run all required tests
	@$(MAKE) --no-print-directory lab-tools bin/hubble
	@$(MAKE) --no-print-directory images RELAY=1
	@$(MAKE) --no-print-directory --jobs=2 row-1 row-2

# The lab mostly waits: for pods, for the kernel of the guests and for time-outs. So two rows of suites, of about the same length, run side by side.
# verify vets all packages, so go test need not.
.PHONY: row-1 row-2
row-1 row-2: export GOFLAGS += -vet=off
row-1:
	@$(MAKE) --no-print-directory verify
	@$(MAKE) --no-print-directory unit UNIT="$$(go list ./... | grep -vxF "$$(go list $(APISERVER))" | xargs)"
	@for suite in apiserver kernel kernel-uml; do $(MAKE) --no-print-directory $$suite; done
row-2:
	@for suite in e2e cloud-clients console-browser chaos-short; do $(MAKE) --no-print-directory $$suite; done

.PHONY: unit
unit: ## Run the hermetic tests (under a minute when warm)
	@go test -run '$(RUN)' $(UNIT)
	@$(LABGO) test -run '$(RUN)' ./...
	@go -C test/monitoring test -run '$(RUN)' ./...
	@go -C hack/site test -run '$(RUN)' ./...
	@go -C hack/release test -run '$(RUN)' ./...

.PHONY: cloud-clients
cloud-clients: ## Run Debian's aws command against the fake EC2
	@AWS="$$(hack/awscli.sh)" go test -tags awscli -count=1 -run '$(RUN)' ./test/fakecloud

# The client brings 1,000 packages to compile, so make test leaves it out.
.PHONY: vpc-cni
vpc-cni: ## Run the EC2 client of amazon-vpc-cni-k8s against the fake EC2
	@cd test/vpccni && go vet ./... && go test -count=1 -run '$(RUN)' ./...

# They bring much of Kubernetes to compile, so make test leaves them out.
.PHONY: gitops
gitops: lab-tools ## Apply the chart with the libraries of Flux and Argo CD to a real kube-apiserver, run the controller, and look for drift
	@cd test/gitops/flux && go vet ./...
	@cd test/gitops/argocd && go vet ./...
	@KUBEBUILDER_ASSETS="$$($(LAB) env --dir)" go test -tags apiserver,gitops -count=1 -timeout 30m -v -run 'Flux|ArgoCD' ./charts

.PHONY: apiserver
apiserver: lab-tools bin/hubble bin/hubble-relay ## Run the tests against a real kube-apiserver and etcd
	@KUBEBUILDER_ASSETS="$$($(LAB) env --dir)" go test -tags apiserver -p 2 -timeout 20m -run '$(RUN)' $(APISERVER)

.PHONY: console-browser
console-browser: lab-tools ## Run the console in front of a real kube-apiserver, and read its pages in headless Chromium (SCREENSHOTS=dir for pictures)
	@hack/browser.sh
	@KUBEBUILDER_ASSETS="$$($(LAB) env --dir)" SCREENSHOTS='$(SCREENSHOTS)' go test -tags apiserver,browser -count=1 -timeout 10m -run PagesInBrowser ./internal/console

.PHONY: kernel
kernel: lab-tools ## Run the datapath tests in network namespaces (root)
	@go test -tags kernel -count=1 -p 1 -run '$(RUN)' ./internal/linux/... ./internal/cni/... ./internal/agent/nodeguard ./internal/agent/bandwidth ./internal/agent/enforcer ./internal/agent/flowpods ./test/chains
	@$(LABGO) test -tags kernel -count=1 -p 1 -run '$(RUN)' ./...

.PHONY: kernel-uml
kernel-uml: lab-tools ## Run the kernel tests in User Mode Linux, with ipvlan, VLANs, bonds and IPVS
	@hack/kernel-uml.sh -test.run='$(RUN)'

.PHONY: datapath
datapath: lab-tools ## Run the datapath tests and write docs/reference/datapath.md
	@hack/kernel-uml.sh --update

.PHONY: e2e
e2e: ## Run the guide on both topologies, each on a fresh lab, and further pod tests on l2
	@for topology in l2 aws; do $(MAKE) --no-print-directory e2e-$$topology; done

.PHONY: e2e-l2 e2e-aws
# These tests take long, so make test runs them on l2 only, and TestZeroTouch not at all: make e2e-aws SKIP= RUN=TestZeroTouch.
# The coordinator's tests in kernel-uml send the same forged frames on ipvlan as TestAntiSpoofing on macvlan.
# TestManage and TestAttach have their own targets, and TestFixedAddresses needs a third node: make e2e-fixed.
# On aws, TestConnectivity plants a dropped VLAN, too: User Mode Linux has VLANs.
e2e-aws: SKIP = TestPolicies|TestBandwidth|TestAntiSpoofing|TestFlows|TestConnectivity|TestRemoval|TestZeroTouch|TestManage|TestAttach
e2e-l2 e2e-aws: e2e-%: lab-tools bin/hubble
	@$(MAKE) --no-print-directory images RELAY=1
	@trap '$(LAB) down' EXIT; $(LAB) up --topology $* && \
		go test -tags e2e -count=1 -timeout 40m -v -run '$(RUN)' -skip '$(SKIP)' ./test/e2e -lab $(CURDIR)/$(LAB) -topology $*

PODS  ?= 200
STORM ?= 2m
.PHONY: e2e-manage
e2e-manage: lab-tools images ## Have the controller assign addresses to PODS=200 pods on the aws topology and take them back, then do so while controllers die and the cloud lies (STORM=2m)
	@trap '$(LAB) down' EXIT; $(LAB) up --topology aws && \
		go test -tags e2e -count=1 -timeout 120m -v -run '$(if $(filter .,$(RUN)),TestManage,$(RUN))' ./test/e2e -lab $(CURDIR)/$(LAB) -topology aws -pods $(PODS) -storm $(STORM)

.PHONY: e2e-fixed
e2e-fixed: lab-tools images ## Have fixed addresses follow the pods of a StatefulSet between the nodes of a zone, on the aws topology with three nodes
	@trap '$(LAB) down' EXIT; $(LAB) up --topology aws --nodes 3 && \
		go test -tags e2e -count=1 -timeout 60m -v -run TestFixedAddresses ./test/e2e -lab $(CURDIR)/$(LAB) -topology aws

.PHONY: e2e-attach
e2e-attach: lab-tools images ## Have the controller attach an interface to each node of the aws topology, run pods on it, and delete it
	@trap '$(LAB) down' EXIT; $(LAB) up --topology aws && \
		go test -tags e2e -count=1 -timeout 60m -v -run TestAttach ./test/e2e -lab $(CURDIR)/$(LAB) -topology aws

# Many kernels lack IPVS, so the ipvs mode runs in User Mode Linux.
.PHONY: e2e-proxies
e2e-proxies: lab-tools images ## Run the guide on the l2 topology with kube-proxy in nftables and in ipvs mode
	@trap '$(LAB) down' EXIT; for up in 'nftables --kernel host' 'ipvs --kernel uml'; do \
		$(LAB) down; $(LAB) up --topology l2 --kube-proxy-mode $$up; \
		go test -tags e2e -count=1 -timeout 40m -v -run TestGuide ./test/e2e -lab $(CURDIR)/$(LAB) -topology l2; \
	done

.PHONY: e2e-console
e2e-console: lab-tools ## Install on the l2 topology, and compare the pages of the console with kubectl in headless Chromium (SCREENSHOTS=dir for pictures)
	@$(MAKE) --no-print-directory images RELAY=1
	@hack/browser.sh
	@trap '$(LAB) down' EXIT; $(LAB) up --topology l2 && \
		go test -tags e2e -count=1 -timeout 20m -v -run 'TestGuide/(images|Install|attachment|pool.for)|TestConsole' ./test/e2e -lab $(CURDIR)/$(LAB) -topology l2 -console

.PHONY: e2e-scale
e2e-scale: lab-tools images ## Run the guide on the l2 topology, then twice 100 pods on pools of exactly 100 addresses
	@trap '$(LAB) down' EXIT; $(LAB) up --topology l2 && \
		go test -tags e2e -count=1 -timeout 90m -v -run 'TestGuide|TestScale' ./test/e2e -lab $(CURDIR)/$(LAB) -topology l2 -scale

.PHONY: conformance
conformance: lab-tools images ## Run Kubernetes' network tests (SET=conformance, services or policy, SERVICE_MODE=ebpf or kubeproxy), with Spiderpool as the only network
	@go run ./test/conformance --lab $(LAB) --set '$(SET)' --run '$(RUN)' --service-mode '$(SERVICE_MODE)' --nodes $(NODES) --topology $(if $(filter file,$(origin TOPOLOGY)),l2,$(TOPOLOGY))

CASES ?= 20
.PHONY: cyclonus
cyclonus: lab-tools images ## Apply CASES=20 random policies of cyclonus on the lab, and compare real packets with the model (TOPOLOGY=l2 or aws)
	@trap '$(LAB) down' EXIT; $(LAB) up --topology $(TOPOLOGY) && \
		go test -tags e2e -count=1 -timeout 40m -v -run TestGuide/'(images|Install|attachment|pool.for)' ./test/e2e -lab $(CURDIR)/$(LAB) -topology $(TOPOLOGY) && \
		go test -tags e2e -count=1 -timeout 90m -v -run TestPacketsEqualModel ./test/cyclonus -lab $(CURDIR)/$(LAB) -cases $(CASES)

.PHONY: bench
bench: lab-tools ## Measure the IPAM path on simulated nodes, compared with host-local
	@go run ./test/bench

.PHONY: bench-net
bench-net: lab-tools images ## Measure throughput and latency between pods on two nodes, compared with host network and bridge
	@go run ./test/bench-net --lab $(LAB)

.PHONY: bench-service
bench-service: lab-tools ## Measure connections to services by eBPF and kube-proxy with 10 to 10,000 services (root)
	@KUBEBUILDER_ASSETS="$$($(LAB) env --dir)" go test -tags kernel -run '^$$' -bench Services -benchtime 1x -timeout 3h ./test/bench-service

.PHONY: bench-policy
bench-policy: ## Measure connections between pods with policies of 0 to 10,000 peers (root)
	@go test -tags kernel -run '^$$' -bench Policies -benchtime 1x -timeout 30m ./test/bench-service -rounds 9 -seconds 0.7

.PHONY: bench-flows
bench-flows: ## Measure connections between pods with and without observation (root)
	@go test -tags kernel -run '^$$' -bench Flows -benchtime 1x -timeout 30m ./test/bench-service

.PHONY: bench-start
bench-start: lab-tools images ## Measure the time of a pod's network, plugin by plugin, compared with bridge, host-local and portmap
	@go run ./test/bench-start --lab $(LAB)

.PHONY: chaos
chaos: lab-tools ## Kill agents, controllers, API servers and etcds at random for ten minutes, then simulate 30,000 histories, and those of a cloud with a controller that dies after each step
	@go run ./test/chaos --time 10m
	@go test ./internal/ipam -count=1 -timeout 60m -run '^TestSimulation$$' -sim.seeds=30000
	@go test ./internal/controller/cloudnetwork -count=1 -timeout 60m -run 'KilledAtEachStep|NoAddressIsLeased' -kill.every=1 -rapid.checks=300

.PHONY: scale
scale: lab-tools ## Run an agent with 5,000 nodes and 20,000 pools, then with 10,000 services (root), a cloud with 500 nodes, and a controller with 100,000 pods and 2,000 policies, then with 5,000 pools and 20,000 endpoints
	@export KUBEBUILDER_ASSETS="$$($(LAB) env --dir)" && \
		go test -tags apiserver,scale -count=1 -timeout 30m -v -run LargeCluster ./internal/agent ./internal/cli && \
		go test -tags scale -count=1 -timeout 30m -v -run CallsStayInBudget ./internal/controller/cloudnetwork && \
		go test -tags apiserver,scale -count=1 -timeout 30m -v -run LargeCluster ./internal/controller && \
		go test -tags apiserver,scale -count=1 -timeout 30m -v -run FiveThousand ./internal/controller -quiet 5m

.PHONY: chaos-short
chaos-short: lab-tools ## Like chaos, for one minute
	@go run ./test/chaos --time 1m

.PHONY: neighbours
neighbours: lab-tools ## Run agent and plugin of REF (default: the last tag, else 06ce6da) and of this checkout together, through an upgrade and back
	@go run ./test/neighbours --ref '$(or $(REF),$(shell git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || echo 06ce6da))'

.PHONY: fuzz
fuzz: ## Run every fuzz target for 30 s, one after the other (FUZZTIME=5s for less)
	@RUN='$(RUN)' hack/fuzz.sh

.PHONY: mutate
mutate: ## Change one operator at a time and count the changes that tests notice; N=0 for all, PACKAGES=internal/lease
	@nice go run ./hack/mutate -n $(N) $(PACKAGES)

.PHONY: microbench
microbench: ## Run the Go benchmarks of the hot paths
	@go test -run '^$$' -bench . -benchmem ./internal/...

##@ Maintenance

.PHONY: verify
verify: ## Check formatting, vet, staticcheck, go.mod, layering and generated files
	@hack/verify.sh

.PHONY: licences
licences: ## Check that the licence of every module in our programs is permitted
	@go -C hack/release run . licences ../.. ../../test/hubble ../../test/lab/modules/plugins

.PHONY: vulncheck
vulncheck: ## Report known vulnerabilities that our programs reach (needs https://vuln.go.dev or GOVULNDB)
	@hack/vulncheck.sh

.PHONY: update
update: lab-tools ## Regenerate deep copies, CRDs, golden files and reference docs
	@hack/generate.sh
	@go test ./internal/archtest ./internal/kube/compile ./internal/netplan ./internal/view -update >/dev/null
	@go test ./internal/observe ./internal/agent ./internal/controller ./internal/cli -run Reference -update >/dev/null
	@KUBEBUILDER_ASSETS="$$($(LAB) env --dir)" go test -tags apiserver ./charts -update >/dev/null && echo "golden files written"

FORCE:
