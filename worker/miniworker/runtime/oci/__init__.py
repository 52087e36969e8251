"""The `oci` runtime: images of our own, overlayfs, runc or crun under conmon.

Nothing but this node's kernel and three small programs is needed. What is on disk is the state: the agent may be
killed at any moment, and the next one reads everything it needs from the directories.

`<data>/blobs`       configurations of images, by sha256
`<data>/ingest`      layers on their way in; a broken download goes on from here
`<data>/layers`      layers, unpacked once, by chain id
`<data>/images.json` which names mean which image
`<data>/containers`  one directory per container: record, bundle, output, exit code
`<run>`              what a reboot should forget: the OCI runtime's own state
"""
