"""Records as tokens: the chat template, the loss mask, lengths, and the cache of tokenized tables."""
