"""The dispatcher: one stream per node, down which go the assignments and up which come heartbeats and statuses.

| module | holds |
|---|---|
| `delta` | pure: what changed between two sets of assignments, in the order in which a node may apply it |
| `wire` | assignments as protobuf messages |
| `feed` | the newest assignments, the part that all nodes share computed once for all sessions |
| `frontier` | up to which revision all nodes follow, so that a task may be drained and stopped |
| `session` | one node's stream |
| `presence` | who is connected; a silent node becomes DOWN |
| `reports` | statuses that nodes report, checked and written |
| `node_record` | the node's own status in the store |
| `service` | the gRPC servicer |
"""
