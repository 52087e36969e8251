"""The mini-ingress process: a node's published ports.

Two paths serve the same table. The kernel path (nftables) carries what comes from outside and keeps the client's
address; it goes on working while this process is replaced. The userspace path (asyncio) carries what starts on the
node itself, which the kernel path does not see, and its listeners keep the ports from being taken by somebody else.
"""
