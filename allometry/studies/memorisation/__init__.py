"""What models memorise: random data, canaries, passages, documents and text."""
