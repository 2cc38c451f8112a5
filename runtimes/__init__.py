"""One file an engine; each is found by name through edgekit.registry and passes tests/runtimes/contract.py."""
