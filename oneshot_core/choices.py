"""What users may choose from, by name; without torch, so that menus and help texts cost nothing."""

from __future__ import annotations

DEMO = "demo"  # the shipped generator, and the encoders that suit it
FITS = ("crop", "stretch", "letterbox")
PRESETS = ("oneshot_clip",)
PROFILES = ("default", "official")
PRECISIONS = ("float32", "bfloat16")
PERCEPTUAL_NETS = ("alex", "vgg", "squeeze", DEMO)
DEVICES = ("auto", "cpu", "cuda", "mps")
NOISE_MODES = ("const", "none", "random")
# Looks of the shipped target pictures.
TARGET_LOOKS = ("watercolour", "stained glass", "pencil sketch", "oil painting", "blueprint")
DEMO_TARGET = f"{DEMO}:"  # before a look: the shipped picture of it
