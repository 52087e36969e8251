"""The methods of the contract, by their paths."""

from __future__ import annotations

from minicommon.rpc import access

METHODS = {
    f"/{service.full_name}/{method.name}": method
    for service in access.services()
    for method in service.methods
}

SERVED_FILES = (
    *("backup.proto", "control.proto", "secrets.proto", "security.proto", "dispatcher.proto"),
    "streams.proto",
)

CONTROL = [
    path
    for path, method in METHODS.items()
    if method.containing_service.file.name.endswith(SERVED_FILES) or path.startswith("/mini.v1.Membership/")
]
"""What a manager serves on its control port."""
