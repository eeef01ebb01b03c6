"""Many adaptations from one plan: in this process or by the queue of a ComfyUI server."""
