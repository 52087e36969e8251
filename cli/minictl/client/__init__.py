"""How minictl talks to a daemon: gRPC over HTTP/2 on one blocking socket, with nothing imported that it can do without.

`channel` makes calls, `http2` speaks frames, `headers` is HPACK, `codec` the protobuf wire format for the messages that
`schema` (generated from the .proto files) lists, `endpoint` finds the socket.
"""
