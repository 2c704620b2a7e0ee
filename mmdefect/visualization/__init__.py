"""Drawing functions: arrays in, array out, always ``(H, W, 3)`` uint8 RGB."""
