"""Proof: does a file compute what PyTorch computes, and if not, where does it begin to depart?"""
