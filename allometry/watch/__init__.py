"""The live page: a sweep's progress, curves and fits while it runs, served from the store's files alone."""
