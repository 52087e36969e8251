"""The cluster's state: the `Store` protocol, etcd and an in-memory twin behind it, and the watch cache in front."""
