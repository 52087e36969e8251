"""Encryption between nodes: whose keys, which peers, and the two that do the work, the kernel or `wireguard-go`."""
