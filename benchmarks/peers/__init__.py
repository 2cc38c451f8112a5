"""Peers: comparisons with other tools, run by hand; what came out is kept in results/."""
