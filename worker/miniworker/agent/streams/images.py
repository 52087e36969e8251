"""Images of this node, on a stream: one made of a container, and whether one is here."""

from __future__ import annotations

from miniproto.v1 import streams_pb2 as pb

from miniworker.agent.streams.api import Inputs, Outputs
from miniworker.agent.streams.errors import told
from miniworker.runtime.api import Commit, Images, Runtime
from miniworker.runtime.oci import names


class ImageQuestions:
    """The handlers of `commit` and `image`."""

    def __init__(self, runtime: Runtime, images: Images) -> None:
        self._runtime = runtime
        self._images = images

    async def commit(self, query: pb.CommitQuery, inputs: Inputs) -> Outputs:
        commit = Commit(
            reference=query.reference,
            author=query.author,
            message=query.message,
            changes=tuple(query.changes),
            pause=not query.no_pause,
        )
        with told():
            image_id = await self._runtime.commit(query.container_id, commit)
        yield pb.StreamOutput(committed=pb.CommittedImage(id=image_id))

    async def image(self, query: pb.ImageQuery, inputs: Inputs) -> Outputs:
        with told():
            wanted = names.parse(query.reference).full
            here = pb.ImageHere()
            for image in await self._images.list_images():
                if wanted in (names.parse(reference).full for reference in image.references):
                    here = pb.ImageHere(present=True, local=not image.digests)
        yield pb.StreamOutput(image=here)
