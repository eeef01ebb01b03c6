"""Inversion: the codes whose pictures are given pictures, by optimisation or by an encoder."""
