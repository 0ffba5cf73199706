"""What is said: envelopes, codecs, frames, names, filters, events and numbered errors.

Pure: no input or output, no event loop, nothing of the gateway. Any client may import it.
"""
