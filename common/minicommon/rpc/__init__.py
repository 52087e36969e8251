"""gRPC as every process uses it: channels, servers, who may call what, and errors.

A server has one `guard.Guard`, an interceptor which knows how callers of its listeners are identified, lets them in by
the `access` option of each method, maps errors, and leaves a record. Servicers raise `minicommon.errors`; clients wrap
their calls in `errors.ours()` and get the same classes back.
"""
