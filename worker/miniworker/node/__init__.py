"""The node's daemon: makes the machine a member of a cluster and keeps the processes running that this needs.

    data_dir/swarm exists with membership.json  <=>  the node is a member

Everything that joining writes is made in a staging directory that becomes `swarm` in one rename, and leaving removes
that directory whole, so there is no state in between that a crash could leave behind.
"""
