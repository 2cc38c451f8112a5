"""What people try first: run with `make run`, and read as examples."""
