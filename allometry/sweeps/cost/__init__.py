"""Predict what runs take: jobs, timings, packs, the time until all is done, and what the store already holds."""
