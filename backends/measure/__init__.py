"""What a device is measured for: step times, the fastest product, agreement with transformers."""
