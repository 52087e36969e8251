"""HPACK (RFC 7541), the half that a client of our own daemons needs.

Requests are written as literals that are never indexed: correct, a little longer, and without any state. Responses are
read in full: static and dynamic table, and Huffman strings, whose table is built when the first one arrives.
"""

from __future__ import annotations

STATIC_TABLE: tuple[tuple[str, str], ...] = (
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""),
    ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""),
    ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""),
    ("last-modified", ""), ("link", ""), ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""),
    ("proxy-authorization", ""), ("range", ""), ("referer", ""), ("refresh", ""), ("retry-after", ""),
    ("server", ""), ("set-cookie", ""), ("strict-transport-security", ""), ("transfer-encoding", ""),
    ("user-agent", ""), ("vary", ""), ("via", ""), ("www-authenticate", ""),
)  # fmt: skip
"""RFC 7541, appendix A; index 1 is the first."""

TABLE_BYTES = 4096
"""The dynamic table's size that HTTP/2 starts with, and that we do not change."""

_ENTRY_OVERHEAD = 32
"""Bytes that an entry counts beside its text (RFC 7541, 4.1)."""

_HUFFMAN_LENGTHS = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b08060606"
    "0505050606060606060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e06"
    "0f05060506050606060507070606060506070605050607070707070f0b0e0d1c14161414161616171617171717171817"
    "181816171817171717151617161717181615141616171715171616181516171715151615171617171416161617161617"
    "1a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b14181415161515171616191918181a17"
    "1a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)
"""The code length in bits of each symbol, 0 to 256 (RFC 7541, appendix B). The codes are canonical: ordered by length,
then by symbol, so the lengths say everything."""

_EOS = 256
_huffman_codes: dict[tuple[int, int], int] = {}


class HeaderError(ValueError):
    """A header block that breaks RFC 7541."""


def encode(headers: list[tuple[str, str]]) -> bytes:
    """A header block of literals without indexing. Names must be lower case; text is UTF-8."""
    out = bytearray()
    for name, value in headers:
        out.append(0)
        for text in (name, value):
            data = text.encode()
            _write_integer(out, len(data))
            out += data
    return bytes(out)


def _write_integer(out: bytearray, value: int) -> None:
    """With a prefix of 7 bits, the first bit (Huffman) zero."""
    if value < 0x7F:
        out.append(value)
        return
    out.append(0x7F)
    value -= 0x7F
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


class Decoder:
    """Reads the header blocks of one connection, in order: the dynamic table is shared by all of them."""

    __slots__ = ("_dynamic", "_limit", "_size")

    def __init__(self) -> None:
        self._dynamic: list[tuple[str, str]] = []
        self._limit = TABLE_BYTES
        self._size = 0

    def decode(self, block: bytes) -> list[tuple[str, str]]:
        """The headers of `block`. Raises HeaderError."""
        headers: list[tuple[str, str]] = []
        at = 0
        while at < len(block):
            first = block[at]
            if first & 0x80:
                index, at = _integer(block, at, 7)
                headers.append(self._entry(index))
            elif first & 0x40:
                header, at = self._literal(block, at, 6)
                self._insert(header)
                headers.append(header)
            elif first & 0x20:
                limit, at = _integer(block, at, 5)
                if limit > TABLE_BYTES:
                    raise HeaderError(f"a dynamic table of {limit} bytes, at most {TABLE_BYTES} are allowed")
                self._limit = limit
                self._evict()
            else:
                header, at = self._literal(block, at, 4)
                headers.append(header)
        return headers

    def _literal(self, block: bytes, at: int, prefix: int) -> tuple[tuple[str, str], int]:
        index, at = _integer(block, at, prefix)
        if index:
            name = self._entry(index)[0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        return (name, value), at

    def _entry(self, index: int) -> tuple[str, str]:
        if 0 < index <= len(STATIC_TABLE):
            return STATIC_TABLE[index - 1]
        position = index - len(STATIC_TABLE) - 1
        if not 0 <= position < len(self._dynamic):
            raise HeaderError(f"index {index} is in no table")
        return self._dynamic[position]

    def _insert(self, header: tuple[str, str]) -> None:
        self._dynamic.insert(0, header)
        self._size += _entry_size(header)
        self._evict()

    def _evict(self) -> None:
        while self._size > self._limit:
            self._size -= _entry_size(self._dynamic.pop())


def _entry_size(header: tuple[str, str]) -> int:
    return len(header[0].encode()) + len(header[1].encode()) + _ENTRY_OVERHEAD


def _integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    limit = (1 << prefix) - 1
    try:
        value = block[at] & limit
        at += 1
        if value < limit:
            return value, at
        shift = 0
        while True:
            byte = block[at]
            at += 1
            value += (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
            if shift > 28:
                raise HeaderError("a number longer than 32 bits")
    except IndexError:
        raise HeaderError("the block ends in the middle of a number") from None


def _string(block: bytes, at: int) -> tuple[str, int]:
    huffman = at < len(block) and block[at] & 0x80
    size, at = _integer(block, at, 7)
    end = at + size
    if end > len(block):
        raise HeaderError("the block ends in the middle of a string")
    data = block[at:end]
    return (_huffman(data) if huffman else data).decode("utf-8", "replace"), end


def _huffman(data: bytes) -> bytes:
    codes = _huffman_codes or _build_huffman()
    out = bytearray()
    code = length = 0
    for byte in data:
        for shift in range(7, -1, -1):
            code = code << 1 | byte >> shift & 1
            length += 1
            symbol = codes.get((length, code))
            if symbol is not None:
                if symbol == _EOS:
                    raise HeaderError("a Huffman string contains EOS")
                out.append(symbol)
                code = length = 0
    if length > 7 or code != (1 << length) - 1:
        raise HeaderError("a Huffman string ends with wrong padding")
    return bytes(out)


def _build_huffman() -> dict[tuple[int, int], int]:
    order = sorted(range(len(_HUFFMAN_LENGTHS)), key=lambda symbol: (_HUFFMAN_LENGTHS[symbol], symbol))
    code, previous = 0, _HUFFMAN_LENGTHS[order[0]]
    for symbol in order:
        length = _HUFFMAN_LENGTHS[symbol]
        code <<= length - previous
        _huffman_codes[length, code] = symbol
        code, previous = code + 1, length
    return _huffman_codes
