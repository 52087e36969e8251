"""What the README's figures come from. Each part measures ours and a baseline in one run and prints the ratio."""
