"""The network and its training step: images -> logits -> loss -> update, as TensorFlow graph ops."""
