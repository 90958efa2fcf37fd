"""CP-LLM as transformers classes: `VideoSamples` in, the decoder's answers out; finding and assembling its weights."""
