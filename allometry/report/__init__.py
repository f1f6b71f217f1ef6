"""Reports: one offline HTML file, written from the store alone."""
