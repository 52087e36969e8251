"""The API's messages and enums by name: `messages.ServiceSpec(name="web")`, `messages.TASK_STATE_RUNNING`.

A type checker sees protobuf's own stubs; at run time the names come from `codec`, which starts much faster.
"""

# ruff: noqa: F403

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from miniproto.v1.backup_pb2 import *
    from miniproto.v1.control_pb2 import *
    from miniproto.v1.node_pb2 import *
    from miniproto.v1.objects_pb2 import *
    from miniproto.v1.secrets_pb2 import *
    from miniproto.v1.security_pb2 import *
    from miniproto.v1.streams_pb2 import *
else:
    from minictl.client import codec
    from minictl.client.schema import ENUMS, MESSAGES

    def __getattr__(name):
        if name in MESSAGES:
            value = codec.message_class(name)
        elif name in ENUMS:
            value = codec.Enum(name)
        else:
            for labels in ENUMS.values():
                for label, number in labels:
                    if label == name:
                        globals()[name] = number
                        return number
            raise AttributeError(f"the API has no message or enum {name}")
        globals()[name] = value
        return value
