"""The node's data plane: plan (pure), delta (pure), apply. The only package that knows netlink and nftables."""
