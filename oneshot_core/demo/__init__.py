"""The demo world: a small world of drawn portraits whose factors, looks and captions are all known."""
