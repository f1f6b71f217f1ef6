"""Engines: interchangeable ways to compute one training step."""
