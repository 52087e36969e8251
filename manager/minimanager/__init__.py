"""The manager: control API, dispatcher, certificate authority and control loops, with the cluster's state in etcd."""
