"""Makes training environments and runs chains in them."""
