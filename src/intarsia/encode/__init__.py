"""What a model is asked: vectors of pictures and texts, similarities, maps."""
