"""The cluster's certificate authority, on every manager.

The root's key and the join tokens are in the cluster object, sealed with the cluster key; they are opened for the
moment in which they are needed. `sealer` knows the purposes they are sealed for, `tokens` decides about a token,
`issuer` about a certificate request.
"""
