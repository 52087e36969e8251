# The two commands of a newcomer are `make demo` and `make test`; both set the machine up by themselves.
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := common manager worker cli tests bench scripts
PROTOS := $(wildcard proto/miniproto/v1/*.proto)

.PHONY: help setup demo demo-down test verify lint fix gen gen-check bench soak clean

help: ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | column -t -s "$$(printf '\t')"

setup: ## system packages and the virtual environment
	@scripts/setup

demo: setup ## a three-node cluster on this machine, a replicated service, curl through every node
	@scripts/as-root $(BIN)/python scripts/demo.py

demo-down: ## remove what an interrupted demo left
	@scripts/as-root $(BIN)/python scripts/demo.py --down

test: setup ## every test
	scripts/as-root $(BIN)/pytest

lint: ## the static part of verify
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory gen-check

verify: setup lint test ## what CI runs

fix: ## what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

gen: ## generated code from proto/
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iproto --python_out=proto \
	  --grpc_python_out=proto --mypy_out=quiet:proto --mypy_grpc_out=quiet:proto $(PROTOS)
	$(BIN)/python -m minictl.client.generate

gen-check: ## fails when the generated code does not match proto/
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && \
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iproto --python_out=$$tmp \
	  --grpc_python_out=$$tmp --mypy_out=quiet:$$tmp --mypy_grpc_out=quiet:$$tmp $(PROTOS) && \
	for file in $$(cd $$tmp && find . -name '*_pb2*'); do \
	  cmp -s "$$tmp/$$file" "proto/$$file" || { echo "proto/$$file is out of date: run 'make gen'"; exit 1; }; \
	done
	@$(BIN)/python -m minictl.client.generate --check

soak: setup ## loss of power during writes, ROUNDS times (50)
	scripts/as-root $(BIN)/python scripts/soak.py --rounds $(or $(ROUNDS),50)

bench: ## the figures of the README
	@scripts/setup --bench
	scripts/as-root $(BIN)/python -m bench
