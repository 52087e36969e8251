"""The node: its daemon, the agent that runs tasks, the runtimes, the network and the ingress proxy."""
