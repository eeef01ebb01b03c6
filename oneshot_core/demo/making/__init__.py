"""What makes the demo's assets: painter, pool, training, entrance tests; nothing of it serves at run time."""
