"""A backup's file: only its key opens it, and only as it was written."""

from __future__ import annotations

import io

import pytest
from minicommon.backup_file import (
    CHUNK_BYTES,
    Backup,
    BackupError,
    BackupReader,
    BackupWriter,
    Passphrase,
    Secret,
    UnlockKey,
    new_header,
    read_backup,
    secret_of,
)
from minicommon.errors import InvalidArgumentError
from minicommon.identity.keyring import unlock_text
from miniproto.v1 import backup_pb2 as pb

PASSPHRASE = "correct horse"
UNLOCK = b"u" * 32


def records(sizes: tuple[int, ...]) -> list[pb.BackupRecord]:
    entries = [pb.BackupEntry(key=f"/mini/c/{n}", value=b"v" * size) for n, size in enumerate(sizes)]
    return [
        pb.BackupRecord(manifest=pb.BackupManifest(cluster_id="c", revision=7)),
        *(pb.BackupRecord(entry=entry) for entry in entries),
        pb.BackupRecord(end=pb.BackupEnd(entries=len(entries))),
    ]


def written(given: list[pb.BackupRecord], secret: Secret) -> bytes:
    writer = BackupWriter(new_header(secret, cluster_id="c", created_at_ns=5, log_n=4), secret)
    return writer.begin() + b"".join(writer.add(each) for each in given) + writer.finish()


def read(data: bytes, key: str = PASSPHRASE) -> Backup:
    return read_backup(io.BytesIO(data), key)


@pytest.mark.parametrize(
    "sizes",
    [(), (0,), (1, 2, 3), (CHUNK_BYTES,), (3 * CHUNK_BYTES, 5), tuple([1000] * 300)],
    ids=["nothing", "empty value", "small", "a chunk", "large", "many"],
)
def test_what_was_written_is_read(sizes: tuple[int, ...]) -> None:
    backup = read(written(records(sizes), Passphrase(PASSPHRASE.encode())))
    assert backup.manifest.revision == 7
    assert [len(each.value) for each in backup.entries] == list(sizes)


def test_a_file_that_ends_with_a_whole_chunk() -> None:
    """No byte is left for a chunk after it, so the full one must be the last."""
    for extra in range(CHUNK_BYTES - 120, CHUNK_BYTES):
        given = records((extra,))
        size = sum(len(each.SerializeToString()) + 4 for each in given)
        if size == CHUNK_BYTES:
            assert len(read(written(given, UnlockKey(UNLOCK)), unlock_text(UNLOCK)).entries) == 1
            return
    raise AssertionError("no size fills a chunk")


def test_the_unlock_key_opens_what_it_sealed() -> None:
    data = written(records((9,)), UnlockKey(UNLOCK))
    assert len(read(data, unlock_text(UNLOCK)).entries) == 1
    assert BackupReader(io.BytesIO(data)).header.seal == pb.BACKUP_SEAL_UNLOCK_KEY
    with pytest.raises(BackupError, match="unlock key is not the one of when the backup was made"):
        read(data, unlock_text(b"w" * 32))
    with pytest.raises(InvalidArgumentError, match="must begin with SWMKEY-1-"):
        read(data, PASSPHRASE)


def test_a_wrong_passphrase_is_told_from_damage() -> None:
    data = written(records((9,)), Passphrase(PASSPHRASE.encode()))
    with pytest.raises(BackupError, match="does not open: the passphrase is wrong"):
        read(data, "wrong horse")


@pytest.mark.parametrize("text", ["", "1234567", "x" * 1025])
def test_passphrases_have_a_length(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"8 to 1024 bytes, this one has {len(text)}"):
        Passphrase(text.encode())


def test_every_cut_is_noticed() -> None:
    data = written(records((CHUNK_BYTES * 2, 10)), UnlockKey(UNLOCK))
    whole_chunk = len(data) - (len(data) - len(head(data))) % (CHUNK_BYTES + 16)
    cuts = {*range(len(head(data)) + 40), *range(0, len(data), 997), whole_chunk, len(data) - 1}
    for cut in cuts:
        with pytest.raises(BackupError, match=r"not a backup|cut off"):
            read(data[:cut], unlock_text(UNLOCK))
    with pytest.raises(BackupError, match="cut off after its part 2"):
        read(data[:whole_chunk], unlock_text(UNLOCK))


def head(data: bytes) -> bytes:
    reader = io.BytesIO(data)
    BackupReader(reader)
    return data[: reader.tell()]


def test_every_flipped_bit_is_noticed() -> None:
    data = written(records((CHUNK_BYTES, 10)), UnlockKey(UNLOCK))
    for at in {*range(len(head(data)) + 20), *range(0, len(data), 499), len(data) - 1}:
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(BackupError):
            read(bytes(damaged), unlock_text(UNLOCK))
    after_header = bytearray(data)
    after_header[-CHUNK_BYTES] ^= 1
    with pytest.raises(BackupError, match="damaged in its part 1, of 64 KiB each"):
        read(bytes(after_header), unlock_text(UNLOCK))
    in_header = bytearray(data)
    in_header[20] ^= 1
    with pytest.raises(BackupError, match="its header was altered"):
        read(bytes(in_header), unlock_text(UNLOCK))


def test_chunks_cannot_change_places() -> None:
    data = written(records((CHUNK_BYTES * 3,)), UnlockKey(UNLOCK))
    size, start = CHUNK_BYTES + 16, len(head(data))
    swapped = data[:start] + data[start + size : start + 2 * size] + data[start : start + size]
    with pytest.raises(BackupError, match="damaged in its part 1"):
        read(swapped + data[start + 2 * size :], unlock_text(UNLOCK))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda made: made[1:], "not in order"),
        (lambda made: [*made, made[-1]], "not in order"),
        (lambda made: made[:-1], "has no end"),
        (lambda made: [made[0], *made[2:]], "has 1 entries of 2"),
        (lambda made: [*made[:-1], pb.BackupRecord(), made[-1]], "does not know"),
    ],
    ids=["no manifest", "two ends", "no end", "an entry less", "a record of a later version"],
)
def test_a_sealed_file_with_false_records(change: object, problem: str) -> None:
    made = records((1, 2))
    with pytest.raises(BackupError, match=problem):
        read(written(change(made), UnlockKey(UNLOCK)), unlock_text(UNLOCK))  # type: ignore[operator]


def test_other_files_and_later_formats() -> None:
    with pytest.raises(BackupError, match="not a backup of mini"):
        read(b"PK\x03\x04" + b"\0" * 100)
    later = bytearray(written(records(()), UnlockKey(UNLOCK)))
    later[8] = 2
    with pytest.raises(BackupError, match="in format 2, this version reads format 1"):
        read(bytes(later))


def test_a_header_cannot_make_the_reader_pay() -> None:
    header = pb.BackupHeader(seal=pb.BACKUP_SEAL_PASSPHRASE, salt=b"s" * 32, scrypt_log_n=30)
    with pytest.raises(BackupError, match="impossible cost of 30"):
        secret_of(header, PASSPHRASE).key(header)
