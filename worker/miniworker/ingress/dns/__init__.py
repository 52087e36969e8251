"""The node's DNS server: a container asks the gateway of its network for names and gets those of its own networks.

`wire` reads questions and writes answers, `zone` knows the names, `responder` answers from it (all pure); `forwarder`
asks other servers for all other names, `listener` has the sockets, and `server` puts them together.
"""
