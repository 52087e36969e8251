"""When to renew a certificate: at a random moment, so that nodes that joined together do not renew together."""

from __future__ import annotations

from random import Random
from typing import Final

from minicommon.identity.authority import BACKDATE_NS
from minicommon.identity.peer import Identity

EARLIEST: Final = 0.5
LATEST: Final = 0.8
"""Parts of a certificate's life (swarmkit `ca/renewer.go`)."""


def renewal_moment(identity: Identity, random: Random) -> int:
    """Nanoseconds since the epoch: 50 to 80 % of the certificate's life.

    The life begins when it was issued, not at its back-dated start: half of a certificate of one hour would be over
    at once.
    """
    issued_ns = min(identity.not_before_ns + BACKDATE_NS, identity.not_after_ns)
    life_ns = identity.not_after_ns - issued_ns
    return issued_ns + int(life_ns * random.uniform(EARLIEST, LATEST))
