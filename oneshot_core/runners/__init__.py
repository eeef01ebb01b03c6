"""Runs of many adaptations: from a plan, in this process or on a ComfyUI server."""
