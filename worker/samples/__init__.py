"""Which samples are asked for, where they are kept, and when there are enough of them."""
