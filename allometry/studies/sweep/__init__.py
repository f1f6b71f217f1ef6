"""A question of the user's own: a grid of runs from options or a file, and the standard analyses of it."""
