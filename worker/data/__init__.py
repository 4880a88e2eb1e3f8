"""From rows to tokens and labels: reading, rendering, checking, caching, batching. No torch."""
