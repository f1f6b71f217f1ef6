"""Parts of reading tables of runs from other programs: file formats, numbers, headings, trackers."""
