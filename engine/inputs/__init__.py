"""From texts to token ids: checked, rendered, tokenised, cut to length. After this no input can be illegal."""
