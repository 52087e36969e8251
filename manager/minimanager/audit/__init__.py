"""The audit journal of one manager: lines of JSON in files of bounded size. ADR 0011 says why it is not in etcd."""
