"""One seed for each random draw, named by its purpose.

No generator state outlives the draw it serves, so a checkpoint has none to store, and a resumed run draws what the
uninterrupted run would have drawn.
"""

from __future__ import annotations

import hashlib


def seed_for(run: int, purpose: str, epoch: int = 0, step: int = 0) -> int:
    """Return the seed, in [0, 2**63), of the draw for `purpose` in `epoch` at `step` of the run seeded with `run`.

    Equal arguments give equal seeds on every machine; any difference gives an unrelated one (BLAKE2b).
    """
    key = f"{run}|{purpose}|{epoch}|{step}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
