"""The `Store` on etcd 3.4 or later: generated stubs on channels of our own. Nothing outside this package knows etcd."""
