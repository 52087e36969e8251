"""Who is who: certificates, join tokens, and what a verified certificate says about its holder.

A cluster has one root (`authority.new_cluster_root`), whose certificate every member holds and whose key only managers
can open. A node makes its own key, sends a certificate request (`requests`), and gets a certificate that names it:

| field | value |
|---|---|
| CN | the node's id |
| OU | `swarm-manager` or `swarm-worker`; client certificates: `swarm-client-viewer`, `-operator`, `-admin` |
| O | the cluster's id |
| SANs | the CN and the OU; a manager's also has `swarm-ca`, for it answers as the certificate authority |

A join token (`tokens`) has the digest of the root and a secret: with the first the node knows the cluster, with the
second the cluster knows the node. etcd trusts a root of its own (`etcd`) that only managers hold, so that no
certificate of the cluster opens it.
"""
