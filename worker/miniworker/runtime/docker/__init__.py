"""The `docker` runtime: the `Runtime` protocol over the Docker Engine API on its unix socket.

engine      requests, streams and connections that are taken over; knows no container
translate   ContainerConfig to what the Engine is told, a pure function; `read` is the way back
join        how a container gets the network namespace that the data plane has made for it
logs, conversation, files, images, volumes   one part of the protocol each
runtime     the protocol
"""
