"""Fine-grained image-text alignment on top of any CLIP-like model."""
