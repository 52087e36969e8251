"""Names for services that were given none: `adjective_surname`, of words of our own."""

from __future__ import annotations

ADJECTIVES = (
    "able", "amber", "ample", "apt", "avid", "balmy", "bold", "brave", "bright", "brisk", "calm", "candid", "clear",
    "clever", "cosmic", "crisp", "curious", "daring", "deft", "eager", "early", "earnest", "fair", "fleet", "fond",
    "frank", "fresh", "gentle", "glad", "golden", "grand", "hardy", "honest", "humble", "ideal", "jolly", "keen",
    "kind", "lively", "loyal", "lucid", "mellow", "merry", "mild", "modest", "neat", "nimble", "noble", "patient",
    "plucky", "polite", "prompt", "proud", "quick", "quiet", "rapid", "ready", "robust", "serene", "sharp", "silent",
    "sincere", "sober", "solid", "spry", "steady", "stoic", "sturdy", "subtle", "sunny", "swift", "tender", "tidy",
    "tranquil", "upbeat", "vivid", "warm", "wise", "witty", "zesty",
)  # fmt: skip

SURNAMES = (
    "abel", "avogadro", "babbage", "bernoulli", "bessel", "bohr", "boltzmann", "boole", "brahe", "cantor", "carson",
    "cerf", "clarke", "conway", "curie", "dantzig", "darwin", "dijkstra", "dirac", "edison", "einstein", "engelbart",
    "erdos", "euclid", "euler", "faraday", "fermat", "fermi", "fourier", "franklin", "galileo", "galois", "gauss",
    "germain", "godel", "hamilton", "hamming", "heisenberg", "hertz", "hilbert", "hoare", "hopper", "hubble", "huygens",
    "joule", "kepler", "knuth", "lagrange", "lamarr", "lamport", "laplace", "leibniz", "liskov", "lovelace", "maxwell",
    "mendel", "minsky", "naur", "neumann", "newton", "noether", "pascal", "pasteur", "perlman", "planck", "poincare",
    "ptolemy", "ramanujan", "riemann", "ritchie", "russell", "rutherford", "shannon", "steiner", "tesla", "thompson",
    "turing", "volta", "watt", "wiles", "wing",
)  # fmt: skip


def random_name() -> str:
    """For example `steady_hopper`."""
    import random

    return f"{random.choice(ADJECTIVES)}_{random.choice(SURNAMES)}"
