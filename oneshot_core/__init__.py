"""The engine: torch only, never ComfyUI."""
