"""Answering the manager's questions about this node's containers, each on a stream of its own."""
