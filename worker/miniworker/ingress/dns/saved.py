"""The last table, in a file of the run directory: after a restart names are answered before the agent speaks."""

from __future__ import annotations

import logging
from pathlib import Path

from google.protobuf.message import DecodeError
from minicommon.log import fields
from miniproto.v1 import ingress_pb2

logger = logging.getLogger(__name__)


def save_table(path: Path, table: ingress_pb2.DnsTable) -> None:
    """Replace the file whole. When that fails there is none: better no answer than one of an older table."""
    new = path.with_name(f"{path.name}.new")
    try:
        new.touch(mode=0o600)
        new.write_bytes(table.SerializeToString())
        new.replace(path)
    except OSError as error:
        logger.warning("The table of names cannot be kept.", extra=fields(path=path, error=str(error)))
        path.unlink(missing_ok=True)


def load_table(path: Path) -> ingress_pb2.DnsTable | None:
    """None: there is none that can be read."""
    try:
        return ingress_pb2.DnsTable.FromString(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, DecodeError) as error:
        logger.warning("The kept table of names cannot be read.", extra=fields(path=path, error=str(error)))
        return None
