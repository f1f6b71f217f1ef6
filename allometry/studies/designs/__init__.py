"""Designs: sets of runs that several studies read, each trained once."""
