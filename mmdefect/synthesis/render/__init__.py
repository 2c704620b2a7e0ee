"""Turn sampled pastes into pixels: arrays in loader workers, tensors for batches on any device."""
