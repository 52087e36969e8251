"""What is on this node: configurations, layers and names together, and what nothing needs any more."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from miniworker.runtime.api import ImageError
from miniworker.runtime.oci import digest as digests
from miniworker.runtime.oci import manifest as manifests
from miniworker.runtime.oci.content import ContentStore
from miniworker.runtime.oci.image_index import ImageIndex, ImageRecord
from miniworker.runtime.oci.layers import LayerStore
from miniworker.runtime.oci.locks import KeyedLocks
from miniworker.runtime.oci.manifest import ImageConfig


class ImageStore:
    """One per data directory. An image is in the index only when all of it is on the disk."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.content = ContentStore(root)
        self.layers = LayerStore(root)
        self.index = ImageIndex(root)
        self.writers = KeyedLocks()
        """By digest: only one at a time writes a blob's partial file, whichever image it is fetched for."""
        self.adding = 0
        """Pulls and loads under way, whose layers no image names yet: nothing is cleared meanwhile."""

    def recover(self) -> None:
        """Clear what a killed process left half done. Blocks."""
        self.content.forget_temporaries()
        self.layers.forget_temporaries()

    def add(
        self, config: bytes, *, references: tuple[str, ...], repo_digests: tuple[str, ...] = ()
    ) -> ImageRecord:
        """Enter an image whose layers are unpacked; the record with all its names."""
        parsed = manifests.image_config(config)
        image_id = digests.of_bytes(config)
        if not self.content.has(image_id):
            self.content.write(image_id, config)
        chain = digests.chain_ids(parsed.diff_ids)
        return self.index.put(
            ImageRecord(
                id=image_id,
                diff_ids=parsed.diff_ids,
                created_at_ns=parsed.created_at_ns,
                size_bytes=sum(self.layers.size(chain_id) for chain_id in chain),
                references=references,
                repo_digests=repo_digests,
            )
        )

    def config(self, record: ImageRecord) -> ImageConfig:
        """What the image says about its containers. Raises ImageError when the store is damaged."""
        return manifests.image_config(self.content.read(record.id))

    def lower(self, chain: Iterable[str]) -> tuple[Path, ...]:
        """The directories of these layers, topmost first, as overlayfs takes them. Raises ImageError."""
        trees = tuple(self.layers.tree(chain_id) for chain_id in reversed(tuple(chain)))
        for tree in trees:
            if not tree.is_dir():
                raise ImageError(
                    f"layer {tree.parent.name} is missing from the image store; pull or load it again"
                )
        return trees

    def collect(self, *, used: Iterable[str]) -> tuple[str, ...]:
        """Remove what no image needs, but for the layers `used` by containers; the chain ids. Blocks."""
        if self.adding:
            return ()
        records = self.index.all()
        self.content.keep_only(record.id for record in records)
        wanted = {chain_id for record in records for chain_id in record.chain}
        return self.layers.keep_only(wanted | set(used))
